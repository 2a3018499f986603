import { join } from 'node:path';
import { UserError } from 'fp8-core';
import { ByteTokenizer, loadTokenizer, type Tokenizer, trainBpe } from 'fp8-models';
import {
  builtinCorpus,
  encodeDocuments,
  memoryTokens,
  prepareTokens,
  randomTokens,
  readText,
  splitTokens,
  type TextSource,
  TokenDataset,
  type TokenSource,
  textSource,
} from './data/index.ts';

/** Tokens of a run, split, with the tokenizer that made them (none for random tokens). */
export interface RunData {
  tokenizer: Tokenizer | null;
  train: TokenSource;
  val: TokenSource | undefined;
  /** Where the text comes from, one line. */
  description: string;
  close(): void;
}

export interface DataOptions {
  data: string;
  tokenizer: string;
  /** The model's vocabulary: the most ids a tokenizer may have. */
  vocabSize: number;
  seqLen: number;
  valFraction: number;
  seed: number;
  /** Folder to keep the tokenizer and the tokens in; null keeps them in memory. */
  folder: string | null;
  /** The tokenizer of a resumed run, or of the model that it starts from. */
  fixed?: Tokenizer;
  onNote?: (text: string) => void;
}

/** Text that a vocabulary is learned from, at most; more changes the merges little. */
const maxTrainingChars = 8e6;
/** Characters of text for each id of a learned vocabulary, at least: fewer gives merges that occur once. */
const charsPerId = 100;

/** Opens the data of a run. @throws UserError naming what cannot be used and why */
export function openData(options: DataOptions): RunData {
  const { data, vocabSize, seqLen, valFraction, seed, folder } = options;
  if (data === 'random') {
    const train = randomTokens(vocabSize, seed);
    return { tokenizer: null, train, val: undefined, description: `uniform random tokens of ${vocabSize}`, close() {} };
  }
  const source = data === 'builtin' ? builtinCorpus() : textSource(data);
  const tokenizer = options.fixed ?? chooseTokenizer(options, source);
  if (tokenizer.vocabSize > vocabSize) {
    throw new UserError(
      `tokenizer ${options.tokenizer}: ${tokenizer.vocabSize} ids do not fit the model's vocabulary of ${vocabSize}`,
    );
  }
  const tokens = folder ? prepareTokens(source, tokenizer, folder) : encodeInMemory(source, tokenizer);
  const { train, val } = splitTokens(tokens, valFraction, seqLen);
  return {
    tokenizer,
    train,
    val,
    description: source.description,
    close() {
      if (tokens instanceof TokenDataset) tokens.close();
    },
  };
}

function chooseTokenizer({ tokenizer, vocabSize, folder, onNote }: DataOptions, source: TextSource): Tokenizer {
  if (tokenizer === 'byte') return new ByteTokenizer();
  if (tokenizer !== 'bpe') return loadTokenizer(tokenizer);
  const text = readText(source, maxTrainingChars);
  const wanted = Math.max(Math.min(vocabSize, Math.floor(text.length / charsPerId)), Math.min(vocabSize, 300));
  onNote?.(`learning a vocabulary of ${wanted} ids from ${(text.length / 1e6).toFixed(1)} million characters`);
  const bpe = trainBpe(text, { vocabSize: wanted });
  if (folder) bpe.save(join(folder, 'tokenizer'));
  return bpe;
}

function encodeInMemory(source: TextSource, tokenizer: Tokenizer): TokenSource {
  const parts = Array.from(encodeDocuments(source, tokenizer), ({ ids }) => ids);
  const ids = new Int32Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    ids.set(part, at);
    at += part.length;
  }
  return memoryTokens(ids, tokenizer.vocabSize);
}
