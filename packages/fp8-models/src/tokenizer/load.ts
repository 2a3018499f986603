import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from 'fp8-core';
import { bpeFromJson } from './bpe.ts';
import { ByteTokenizer } from './byte.ts';
import { HfTokenizer } from './hf.ts';
import { END_OF_TEXT, type Tokenizer, type TokenizerConfig, type TokenizerJson } from './tokenizer.ts';

/**
 * Loads a tokenizer in Hugging Face's format.
 * @param path a folder with `tokenizer.json` (and `tokenizer_config.json`, if there) or with GPT-2's `vocab.json` and `merges.txt`, or
 *   the file itself
 * @throws UserError naming the file and what is wrong with it
 */
export function loadTokenizer(path: string): Tokenizer {
  const isDir = existsSync(path) && statSync(path).isDirectory();
  const file = isDir ? join(path, 'tokenizer.json') : path;
  const configFile = isDir ? join(path, 'tokenizer_config.json') : undefined;
  const config = configFile !== undefined && existsSync(configFile) ? (readJson(configFile) as TokenizerConfig) : {};
  if (!existsSync(file) && hasVocabAndMerges(path)) return tokenizerFromJson(fromVocabAndMerges(path), config, path);
  if (!existsSync(file))
    throw new UserError(`tokenizer: ${file} does not exist; give a folder that has a tokenizer.json`);
  return tokenizerFromJson(readJson(file) as TokenizerJson, config, file);
}

/** True if `loadTokenizer` finds one in the folder. */
export const hasTokenizer = (dir: string): boolean => existsSync(join(dir, 'tokenizer.json')) || hasVocabAndMerges(dir);

const hasVocabAndMerges = (dir: string): boolean =>
  ['vocab.json', 'merges.txt'].every((name) => existsSync(join(dir, name)));

/** GPT-2's files before there was tokenizer.json: ids by token, and a line of two tokens a merge. */
function fromVocabAndMerges(dir: string): TokenizerJson {
  const vocab = readJson(join(dir, 'vocab.json')) as Record<string, number>;
  const lines = readFileSync(join(dir, 'merges.txt'), 'utf8').split(/\r?\n/);
  const merges = lines.filter((line, i) => line !== '' && !(i === 0 && line.startsWith('#version')));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const added = Object.hasOwn(vocab, END_OF_TEXT)
    ? [{ id: vocab[END_OF_TEXT], content: END_OF_TEXT, special: true }]
    : [];
  return {
    version: '1.0',
    added_tokens: added.map((token) => ({
      ...token,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
    })),
    normalizer: null,
    pre_tokenizer: { ...byteLevel },
    post_processor: null,
    decoder: { ...byteLevel },
    model: { type: 'BPE', vocab, merges: merges.map((line) => line.split(' ', 2)) },
  };
}

/**
 * Builds a tokenizer from the content of `tokenizer.json`, by our own encoder where it gives the same ids, else by the
 * library.
 * @param origin named in error messages
 */
export function tokenizerFromJson(
  json: TokenizerJson,
  config: TokenizerConfig = {},
  origin = 'tokenizer.json',
): Tokenizer {
  if (typeof json !== 'object' || json === null || typeof json.model !== 'object' || json.model === null)
    throw new UserError(`tokenizer: ${origin} has no "model"; it is not a Hugging Face tokenizer.json`);
  try {
    const own = bpeFromJson(json, config);
    return own === undefined ? new HfTokenizer(json, config) : (asByteTokenizer(json, own.vocabSize) ?? own);
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`tokenizer: ${origin} cannot be used: ${oneLine(error)}`);
  }
}

/** The vocabulary of a ByteTokenizer, recognised: 256 bytes under their own values, special tokens after them, no merges. */
function asByteTokenizer(json: TokenizerJson, vocabSize: number): ByteTokenizer | undefined {
  const special = (json.added_tokens ?? []).toSorted((a, b) => a.id - b.id);
  if ((json.model.merges as unknown[]).length > 0 || vocabSize !== 256 + special.length) return undefined;
  const candidate = new ByteTokenizer({ specialTokens: special.map((token) => token.content) });
  const vocab = json.model.vocab as Record<string, number>;
  const expected = candidate.toJSON().model.vocab as Record<string, number>;
  return Object.keys(expected).every((token) => vocab[token] === expected[token]) ? candidate : undefined;
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new UserError(`tokenizer: ${file} cannot be read: ${oneLine(error)}`);
  }
}

/** Messages of JSON.parse and of the library quote the file. */
const oneLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).replace(/\s+/g, ' ').slice(0, 300);
