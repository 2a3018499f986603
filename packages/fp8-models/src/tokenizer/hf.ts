import { Tokenizer as HfEngine } from '@huggingface/tokenizers';
import { configFor, saveTokenizer } from './save.ts';
import { END_OF_TEXT, eosTokenOf, type Tokenizer, type TokenizerConfig, type TokenizerJson } from './tokenizer.ts';

/** Any tokenizer.json, run by Hugging Face's JavaScript library: complete, about ten times slower than our BPE. */
export class HfTokenizer implements Tokenizer {
  readonly kind = 'hf' as const;
  readonly vocabSize: number;
  readonly eosId?: number;
  readonly prefix: readonly number[];
  readonly #engine: HfEngine;
  readonly #json: TokenizerJson;
  readonly #config: TokenizerConfig;

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
    const eosToken = eosTokenOf(config) ?? END_OF_TEXT;
    this.eosId = this.#engine.token_to_id(eosToken);
    this.prefix = prefixOf(this.#engine);
    this.#config = Object.keys(config).length > 0 ? config : configFor(this.eosId === undefined ? undefined : eosToken);
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

  toConfig(): TokenizerConfig {
    return this.#config;
  }

  save(dir: string): void {
    saveTokenizer(dir, this);
  }
}

/** What the post-processor puts before a text; markers at both ends (BERT's) are not for models that go on with a text. */
function prefixOf(engine: HfEngine): number[] {
  const probe = 'a';
  const [plain, marked] = [false, true].map((add): number[] => engine.encode(probe, { add_special_tokens: add }).ids);
  const length = marked.length - plain.length;
  return plain.every((id, i) => id === marked[length + i]) ? marked.slice(0, length) : [];
}
