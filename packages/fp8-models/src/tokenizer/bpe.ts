/**
 * Byte-level BPE as GPT-2 has it, with a fast encoder: text repeats its words, so the ids of each word are kept and
 * most words cost one look-up. The vocabulary reads and writes as Hugging Face's tokenizer.json, and the ids are
 * those that their libraries give for the same file (tested on real text).
 */
import { UserError } from 'fp8-core';
import { BYTE_TO_CHAR, bytesToToken, tokenToBytes } from './byte_alphabet.ts';
import { mergeWord } from './merge_word.ts';
import { GPT2_SPLIT, pieces } from './pretokenize.ts';
import { configFor, saveTokenizer } from './save.ts';
import {
  type AddedToken,
  END_OF_TEXT,
  eosTokenOf,
  IdBuffer,
  type Tokenizer,
  type TokenizerConfig,
  type TokenizerJson,
} from './tokenizer.ts';

/** Words kept with their ids; at the limit the cache starts anew, which bounds memory on endless text. */
const MAX_CACHED_WORDS = 1 << 18;
const MAX_CACHED_LENGTH = 64;

export interface BpeVocabulary {
  /** Bytes of each id; undefined where no token has the id, special tokens as their UTF-8. */
  bytes: (Uint8Array | undefined)[];
  /** Pairs of ids and the id they make, by falling priority. */
  merges: readonly { left: number; right: number; id: number }[];
  /** Tokens found in the text before anything else. */
  added: readonly AddedToken[];
  eosId?: number;
  /** The files that it came from, given back as they were: they may say more than we use. */
  source?: { json: TokenizerJson; config: TokenizerConfig };
}

export class BpeTokenizer implements Tokenizer {
  readonly kind: 'bpe' | 'byte' = 'bpe';
  readonly vocabSize: number;
  readonly eosId?: number;
  readonly #vocabulary: BpeVocabulary;
  /** Id of each byte. */
  readonly #byteIds = new Int32Array(256);
  /** Merge of a pair, by left * vocabSize + right. */
  readonly #rules = new Map<number, { rank: number; id: number }>();
  readonly #added = new Map<string, number>();
  readonly #splitAdded: RegExp | undefined;
  readonly #encoder = new TextEncoder();
  #cache = new Map<string, number | Int32Array>();

  constructor(vocabulary: BpeVocabulary) {
    this.#vocabulary = vocabulary;
    this.vocabSize = vocabulary.bytes.length;
    this.eosId = vocabulary.eosId;
    this.#byteIds.fill(-1);
    vocabulary.bytes.forEach((bytes, id) => {
      if (bytes?.length === 1 && !vocabulary.added.some((token) => token.id === id)) this.#byteIds[bytes[0]] = id;
    });
    const missing = this.#byteIds.indexOf(-1);
    if (missing >= 0)
      throw new UserError(`tokenizer: byte ${missing} has no id; a byte-level vocabulary needs all 256`);
    vocabulary.merges.forEach(({ left, right, id }, rank) => {
      this.#rules.set(left * this.vocabSize + right, { rank, id });
    });
    for (const token of vocabulary.added) this.#added.set(token.content, token.id);
    if (this.#added.size > 0) {
      // The longest first: the library takes the longest token that starts at a position.
      const byLength = [...this.#added.keys()].sort((a, b) => b.length - a.length);
      this.#splitAdded = new RegExp(`(${byLength.map(escapeRegExp).join('|')})`);
    }
  }

  /**
   * Builds the vocabulary from merges over byte ids: ids 0..255 are the bytes, a merge takes the next id unless its
   * spelling exists, special tokens come last.
   */
  static fromMerges(merges: readonly (readonly [number, number])[], specialTokens: readonly string[]): BpeTokenizer {
    const bytes: Uint8Array[] = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
    const idOf = new Map(bytes.map((b, id) => [bytesToToken(b), id]));
    const rules = merges.map(([left, right]) => {
      const joined = Uint8Array.of(...bytes[left], ...bytes[right]);
      const spelling = bytesToToken(joined);
      let id = idOf.get(spelling);
      if (id === undefined) {
        idOf.set(spelling, (id = bytes.length));
        bytes.push(joined);
      }
      return { left, right, id };
    });
    const added = specialTokens.map((content, i) => ({ id: bytes.length + i, content, special: true }));
    const encoder = new TextEncoder();
    const all = [...bytes, ...specialTokens.map((token) => encoder.encode(token))];
    return new BpeTokenizer({ bytes: all, merges: rules, added, eosId: added[0]?.id });
  }

  encode(text: string): Int32Array {
    const out = new IdBuffer(text.length >> 1);
    const parts = this.#splitAdded === undefined ? [text] : text.split(this.#splitAdded);
    for (const part of parts) {
      const special = this.#added.get(part);
      if (special !== undefined) out.push(special);
      else for (const piece of pieces(part)) this.encodePiece(piece, out);
    }
    return out.take();
  }

  decodeBytes(ids: ArrayLike<number>): Uint8Array {
    let length = 0;
    for (let i = 0; i < ids.length; i++) length += this.#bytesOf(ids[i]).length;
    const out = new Uint8Array(length);
    length = 0;
    for (let i = 0; i < ids.length; i++) {
      const bytes = this.#bytesOf(ids[i]);
      out.set(bytes, length);
      length += bytes.length;
    }
    return out;
  }

  decode(ids: ArrayLike<number>): string {
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(this.decodeBytes(ids));
  }

  toJSON(): TokenizerJson {
    const { bytes, merges, added, source } = this.#vocabulary;
    if (source) return source.json;
    const special = new Set(added.map((token) => token.id));
    const tokens = bytes.map((b) => (b === undefined ? '' : bytesToToken(b)));
    const vocab: Record<string, number> = Object.create(null);
    bytes.forEach((b, id) => {
      if (b !== undefined && !special.has(id)) vocab[tokens[id]] = id;
    });
    for (const token of added) vocab[token.content] = token.id;
    const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
    return {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: added.map(({ id, content }) => ({
        id,
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        special: true,
      })),
      normalizer: null,
      pre_tokenizer: { ...byteLevel },
      post_processor: null,
      decoder: { ...byteLevel },
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab,
        merges: merges.map(({ left, right }) => [tokens[left], tokens[right]]),
      },
    };
  }

  toConfig(): TokenizerConfig {
    const { added, source } = this.#vocabulary;
    if (source && Object.keys(source.config).length > 0) return source.config;
    return configFor(added.find((token) => token.id === this.eosId)?.content);
  }

  save(dir: string): void {
    saveTokenizer(dir, this);
  }

  /** Encodes text without added tokens, cut so that its words are those of the whole text. */
  protected encodePiece(piece: string, out: IdBuffer): void {
    for (const word of piece.match(GPT2_SPLIT) ?? []) {
      let ids = this.#cache.get(word);
      if (ids === undefined) {
        const bytes = this.#encoder.encode(word);
        const merged = mergeWord(
          Array.from(bytes, (byte) => this.#byteIds[byte]),
          (left, right) => this.#rules.get(left * this.vocabSize + right),
        );
        ids = merged.length === 1 ? merged[0] : Int32Array.from(merged);
        if (word.length <= MAX_CACHED_LENGTH) {
          if (this.#cache.size >= MAX_CACHED_WORDS) this.#cache = new Map();
          // A slice of the text would keep all of it alive; the copy keeps the word only.
          this.#cache.set(detach(word), ids);
        }
      }
      if (typeof ids === 'number') out.push(ids);
      else out.pushAll(ids);
    }
  }

  #bytesOf(id: number): Uint8Array {
    const bytes = this.#vocabulary.bytes[id];
    if (bytes === undefined) throw new RangeError(`decode: id ${id} is outside the vocabulary [0, ${this.vocabSize})`);
    return bytes;
  }
}

/**
 * Reads tokenizer.json as a byte-level BPE, or undefined if it asks for anything our encoder does not do exactly
 * (a normaliser, another split, byte fallback …); the library runs those.
 */
export function bpeFromJson(json: TokenizerJson, config: TokenizerConfig = {}): BpeTokenizer | undefined {
  const { model } = json;
  const split = json.pre_tokenizer as Record<string, unknown> | null;
  const post = json.post_processor as Record<string, unknown> | null | undefined;
  const plain =
    (model.type === 'BPE' || model.type === undefined) &&
    !json.normalizer &&
    split?.type === 'ByteLevel' &&
    split.add_prefix_space !== true &&
    split.use_regex !== false &&
    (!post || post.type === 'ByteLevel') &&
    !model.byte_fallback &&
    !model.ignore_merges &&
    !model.dropout &&
    !model.continuing_subword_prefix &&
    !model.continuing_subword_suffix &&
    !model.end_of_word_suffix &&
    Array.isArray(model.merges) &&
    typeof model.vocab === 'object' &&
    model.vocab !== null;
  const added = json.added_tokens ?? [];
  if (!plain || added.some((token) => token.lstrip || token.rstrip || token.single_word)) return undefined;

  const idOf = new Map(Object.entries(model.vocab as Record<string, number>));
  const encoder = new TextEncoder();
  const bytes: (Uint8Array | undefined)[] = [];
  for (const [token, id] of idOf) {
    if (!Number.isInteger(id) || id < 0 || id > 1 << 22) return undefined;
    bytes[id] = tokenToBytes(token) ?? encoder.encode(token);
  }
  for (const { id, content } of added) bytes[id] = encoder.encode(content);
  if (BYTE_TO_CHAR.some((char) => !idOf.has(char))) return undefined;
  const merges: { left: number; right: number; id: number }[] = [];
  for (const merge of model.merges as (string | [string, string])[]) {
    const [leftToken, rightToken] = typeof merge === 'string' ? merge.split(' ', 2) : merge;
    const left = idOf.get(leftToken);
    const right = idOf.get(rightToken);
    const id = idOf.get(leftToken + rightToken);
    if (left === undefined || right === undefined || id === undefined) return undefined;
    merges.push({ left, right, id });
  }
  const eosToken = eosTokenOf(config) ?? END_OF_TEXT;
  const eosId = added.find((token) => token.content === eosToken)?.id;
  return new BpeTokenizer({ bytes: Array.from(bytes), merges, added, eosId, source: { json, config } });
}

const escapeRegExp = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

const detach = (word: string) => (word.length < 13 ? word : Buffer.from(word, 'utf16le').toString('utf16le'));
