/** Tokens by position, wherever they come from: a file, memory, a part of either, or a random generator. */
import { UserError } from 'fp8-core';
import { hash32 } from 'fp8-models';

export interface TokenSource {
  readonly numTokens: number;
  /** Ids are in [0, vocabSize). */
  readonly vocabSize: number;
  /** Copies tokens [start, start + count) into `target` from index 0 on. */
  read(start: number, count: number, target: Int32Array): void;
}

/** Tokens in memory. @throws RangeError for an id outside [0, vocabSize) */
export function memoryTokens(ids: ArrayLike<number>, vocabSize: number): TokenSource {
  const tokens = Int32Array.from(ids);
  checkIds(tokens, tokens.length, vocabSize, 'memoryTokens');
  return {
    numTokens: tokens.length,
    vocabSize,
    read: (start, count, target) => {
      checkRange(start, count, tokens.length);
      target.set(tokens.subarray(start, start + count));
    },
  };
}

/** Uniform random tokens, each a function of seed and position: for throughput, where no text is wanted. */
export function randomTokens(vocabSize: number, seed: number, numTokens = 2 ** 31): TokenSource {
  if (!Number.isInteger(vocabSize) || vocabSize < 1) throw new RangeError(`randomTokens: vocabSize is ${vocabSize}`);
  return {
    numTokens,
    vocabSize,
    read: (start, count, target) => {
      checkRange(start, count, numTokens);
      for (let i = 0; i < count; i++) target[i] = Math.floor((hash32(seed, start + i) / 2 ** 32) * vocabSize);
    },
  };
}

/** Tokens [start, end) of a source. */
export function tokenRange(source: TokenSource, start: number, end: number): TokenSource {
  checkRange(start, end - start, source.numTokens);
  return {
    numTokens: end - start,
    vocabSize: source.vocabSize,
    read: (from, count, target) => {
      checkRange(from, count, end - start);
      source.read(start + from, count, target);
    },
  };
}

/**
 * Splits off the tail for validation; no token is in both parts.
 * @param valFraction share of the tokens, in [0, 1); at least one sequence and its last target are taken. 0: no validation
 * @throws UserError, with the numbers, if either part is shorter than one sequence of seqLen + 1 tokens
 */
export function splitTokens(
  source: TokenSource,
  valFraction: number,
  seqLen: number,
): { train: TokenSource; val: TokenSource | undefined } {
  if (!(valFraction >= 0 && valFraction < 1))
    throw new UserError(`data: val-fraction is ${valFraction}; it must be in [0, 1)`);
  const need = seqLen + 1;
  const numVal = valFraction === 0 ? 0 : Math.max(need, Math.round(source.numTokens * valFraction));
  const numTrain = source.numTokens - numVal;
  if (numTrain < need)
    throw new UserError(
      `data: ${source.numTokens} tokens are too few: sequences of ${seqLen} need ${need} for training` +
        `${numVal > 0 ? ` beside ${numVal} for validation` : ''}; give more text or a smaller --seq`,
    );
  return {
    train: tokenRange(source, 0, numTrain),
    val: numVal === 0 ? undefined : tokenRange(source, numTrain, source.numTokens),
  };
}

export function checkRange(start: number, count: number, numTokens: number): void {
  if (!(start >= 0 && count >= 0 && start + count <= numTokens))
    throw new RangeError(`tokens: [${start}, ${start + count}) is outside [0, ${numTokens})`);
}

/** An id beyond the vocabulary would make the embedding read past its table. */
export function checkIds(ids: Int32Array, count: number, vocabSize: number, where: string): void {
  for (let i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= vocabSize)
      throw new RangeError(`${where}: token ${ids[i]} at ${i} is outside the vocabulary [0, ${vocabSize})`);
}
