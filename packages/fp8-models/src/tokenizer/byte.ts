import { BpeTokenizer } from './bpe.ts';
import { END_OF_TEXT, type IdBuffer } from './tokenizer.ts';

export interface ByteTokenizerOptions {
  /** Tokens with ids from 256 on; the first ends a document. Default `<|endoftext|>`; `[]` for the 256 bytes alone. */
  specialTokens?: readonly string[];
}

/**
 * One id a byte, ids 0..255: needs no training and no file. It is a byte-level BPE without merges, and saves as one.
 */
export class ByteTokenizer extends BpeTokenizer {
  override readonly kind = 'byte' as const;

  constructor(options: ByteTokenizerOptions = {}) {
    const special = options.specialTokens ?? [END_OF_TEXT];
    const encoder = new TextEncoder();
    super({
      bytes: [
        ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
        ...special.map((token) => encoder.encode(token)),
      ],
      merges: [],
      added: special.map((content, i) => ({ id: 256 + i, content, special: true })),
      eosId: special.length > 0 ? 256 : undefined,
    });
  }

  protected override encodePiece(piece: string, out: IdBuffer): void {
    out.pushAll(Buffer.from(piece, 'utf8'));
  }
}
