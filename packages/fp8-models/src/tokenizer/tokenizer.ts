/** Turns text into token ids and back. Every tokenizer here is lossless: `decode(encode(text))` is `text`. */
export interface Tokenizer {
  /** `byte`: one id a byte. `bpe`: byte-level BPE, run by our own encoder. `hf`: any other tokenizer.json, run by the library. */
  readonly kind: 'byte' | 'bpe' | 'hf';
  /** Ids are in [0, vocabSize). */
  readonly vocabSize: number;
  /** The id that ends a document, where the vocabulary has one. */
  readonly eosId?: number;
  /** Ids that stand before a text that begins a document, where the vocabulary's post-processor puts some (Llama's `<s>`). */
  readonly prefix?: readonly number[];
  /** Ids of the text alone. */
  encode(text: string): Int32Array;
  /** Invalid UTF-8 (a character cut in the middle) becomes U+FFFD. Throws RangeError for an id outside the vocabulary. */
  decode(ids: ArrayLike<number>): string;
  /** The exact bytes, for streaming: a character may be spread over several ids. */
  decodeBytes?(ids: ArrayLike<number>): Uint8Array;
  /** The content of Hugging Face's `tokenizer.json`. */
  toJSON(): TokenizerJson;
  /** The content of `tokenizer_config.json`: which token ends a text, the chat template … */
  toConfig(): TokenizerConfig;
  /** Writes `tokenizer.json` and `tokenizer_config.json` into `dir`. */
  save(dir: string): void;
}

/** The parts of Hugging Face's `tokenizer.json` that we read or write. */
export interface TokenizerJson {
  version?: string;
  added_tokens?: AddedToken[];
  normalizer?: unknown;
  pre_tokenizer?: unknown;
  post_processor?: unknown;
  decoder?: unknown;
  model: { type?: string; vocab?: unknown; merges?: unknown; [key: string]: unknown };
  [key: string]: unknown;
}

/** What `tokenizer_config.json` may tell about a tokenizer. */
export interface TokenizerConfig {
  eos_token?: string | { content: string } | null;
  [key: string]: unknown;
}

/** The token that ends a document, as a string, if the configuration names one. */
export const eosTokenOf = (config: TokenizerConfig): string | undefined =>
  typeof config.eos_token === 'string' ? config.eos_token : (config.eos_token?.content ?? undefined);

/** A token outside the merges, such as `<|endoftext|>`, found in the text before anything else. */
export interface AddedToken {
  id: number;
  content: string;
  special?: boolean;
  single_word?: boolean;
  lstrip?: boolean;
  rstrip?: boolean;
  normalized?: boolean;
}

/** GPT-2's name for the end of a document. */
export const END_OF_TEXT = '<|endoftext|>';

/** A growing list of ids; `take()` gives the filled part. */
export class IdBuffer {
  #ids: Int32Array;
  length = 0;

  constructor(capacity = 1024) {
    this.#ids = new Int32Array(Math.max(16, capacity));
  }

  push(id: number): void {
    if (this.length === this.#ids.length) this.#grow(this.length + 1);
    this.#ids[this.length++] = id;
  }

  pushAll(ids: ArrayLike<number>): void {
    if (this.length + ids.length > this.#ids.length) this.#grow(this.length + ids.length);
    this.#ids.set(ids, this.length);
    this.length += ids.length;
  }

  /** A copy of exact size, so that the spare capacity is freed with the buffer. */
  take(): Int32Array {
    return this.#ids.slice(0, this.length);
  }

  #grow(need: number): void {
    const next = new Int32Array(Math.max(need, this.#ids.length * 2));
    next.set(this.#ids);
    this.#ids = next;
  }
}
