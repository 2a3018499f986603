import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TokenizerJson } from './tokenizer.ts';

/** Writes `tokenizer.json` and `tokenizer_config.json`, each aside and renamed, so that a reader never sees half a file. */
export function saveTokenizer(dir: string, json: TokenizerJson, eosToken: string | undefined): void {
  mkdirSync(dir, { recursive: true });
  const config = {
    tokenizer_class: 'PreTrainedTokenizerFast',
    clean_up_tokenization_spaces: false,
    ...(eosToken === undefined ? {} : { eos_token: eosToken, bos_token: eosToken, unk_token: eosToken }),
  };
  for (const [name, content] of [
    ['tokenizer.json', json],
    ['tokenizer_config.json', config],
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
