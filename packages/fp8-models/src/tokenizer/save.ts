import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Tokenizer, TokenizerConfig } from './tokenizer.ts';

/** The tokenizer_config.json of a tokenizer of our own. */
export const configFor = (eosToken: string | undefined): TokenizerConfig => ({
  tokenizer_class: 'PreTrainedTokenizerFast',
  clean_up_tokenization_spaces: false,
  ...(eosToken === undefined ? {} : { eos_token: eosToken, bos_token: eosToken, unk_token: eosToken }),
});

/** Writes `tokenizer.json` and `tokenizer_config.json`, each aside and renamed, so that a reader never sees half a file. */
export function saveTokenizer(dir: string, tokenizer: Pick<Tokenizer, 'toJSON' | 'toConfig'>): void {
  mkdirSync(dir, { recursive: true });
  for (const [name, content] of [
    ['tokenizer.json', tokenizer.toJSON()],
    ['tokenizer_config.json', tokenizer.toConfig()],
  ] as const) {
    const path = join(dir, name);
    const aside = `${path}.tmp-${process.pid}`;
    try {
      writeFileSync(aside, `${JSON.stringify(content)}\n`, { flush: true });
      renameSync(aside, path);
    } catch (error) {
      rmSync(aside, { force: true });
      throw error;
    }
  }
}
