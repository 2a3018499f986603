import { Tokenizer as HfEngine } from '@huggingface/tokenizers';
import { saveTokenizer } from './save.ts';
import { END_OF_TEXT, type Tokenizer, type TokenizerJson } from './tokenizer.ts';

/** What `tokenizer_config.json` may tell about a tokenizer. */
export interface TokenizerConfig {
  eos_token?: string | { content: string } | null;
  [key: string]: unknown;
}

/** Any tokenizer.json, run by Hugging Face's JavaScript library: complete, about ten times slower than our BPE. */
export class HfTokenizer implements Tokenizer {
  readonly kind = 'hf' as const;
  readonly vocabSize: number;
  readonly eosId?: number;
  readonly #engine: HfEngine;
  readonly #json: TokenizerJson;
  readonly #eosToken: string | undefined;

  /** @throws Error from the library if it does not know a part of the file */
  constructor(json: TokenizerJson, config: TokenizerConfig = {}) {
    // The library insists on these keys and walks added_tokens; a file may leave them out.
    const complete = { normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, added_tokens: [] };
    this.#json = json;
    this.#engine = new HfEngine({ ...complete, ...json }, { ...config, clean_up_tokenization_spaces: false });
    let last = -1;
    for (const id of this.#engine.get_vocab().values()) if (id > last) last = id;
    if (last < 0) throw new Error('its vocabulary is empty');
    this.vocabSize = last + 1;
    this.#eosToken = eosTokenOf(config) ?? END_OF_TEXT;
    this.eosId = this.#engine.token_to_id(this.#eosToken);
  }

  /** Ids of the text alone, without the markers a post-processor would put around it. */
  encode(text: string): Int32Array {
    return Int32Array.from(this.#engine.encode(text, { add_special_tokens: false }).ids);
  }

  decode(ids: ArrayLike<number>): string {
    for (let i = 0; i < ids.length; i++)
      if (!(ids[i] >= 0 && ids[i] < this.vocabSize))
        throw new RangeError(`decode: id ${ids[i]} is outside the vocabulary [0, ${this.vocabSize})`);
    return ids.length === 0 ? '' : this.#engine.decode(Array.from(ids), { skip_special_tokens: false });
  }

  toJSON(): TokenizerJson {
    return this.#json;
  }

  save(dir: string): void {
    saveTokenizer(dir, this.#json, this.eosId === undefined ? undefined : this.#eosToken);
  }
}

/** The token that ends a document, as a string, if the configuration names one. */
export const eosTokenOf = (config: TokenizerConfig): string | undefined =>
  typeof config.eos_token === 'string' ? config.eos_token : (config.eos_token?.content ?? undefined);
