/**
 * Batches of sequences in a shuffled order that is a function of the seed alone. The state is two numbers, so a run
 * resumes exactly; and ranks share one order, each taking every worldSize-th sequence, so that dp N x batch b sees the
 * same sequences per step as dp 1 x batch N*b.
 *
 * An epoch cuts the tokens into windows of seqLen targets, from an offset of its own, so that no token is always last.
 */
import { UserError } from 'fp8-core';
import { hash32 } from 'fp8-models';
import { shuffled } from './permutation.ts';
import type { TokenSource } from './tokens.ts';

/** Inputs and targets, sequence-first: element t * batch + b is token t of sequence b. */
export interface Batch {
  /** [T, B] */
  inputs: Int32Array;
  /** [T, B]: the token after each input */
  targets: Int32Array;
  batch: number;
  seqLen: number;
}

/** Where the next sequence of the whole job (all ranks) is taken. Plain JSON. */
export interface SamplerState {
  epoch: number;
  /** Sequences of this epoch already taken by all ranks. */
  index: number;
}

export interface SamplerOptions {
  seqLen: number;
  /** Default 0. */
  seed?: number;
  /** This rank among those that share the data, and their number. Default 0 of 1. */
  rank?: number;
  worldSize?: number;
}

export class Sampler {
  readonly seqLen: number;
  readonly #source: TokenSource;
  readonly #seed: number;
  readonly #rank: number;
  readonly #worldSize: number;
  readonly #window: Int32Array;
  #epoch = 0;
  #index = 0;

  /** @throws UserError if the source is shorter than one sequence */
  constructor(source: TokenSource, options: SamplerOptions) {
    const { seqLen, seed = 0, rank = 0, worldSize = 1 } = options;
    if (!(Number.isInteger(seqLen) && seqLen >= 1))
      throw new RangeError(`Sampler: seqLen is ${seqLen}; it must be 1 or more`);
    if (!(rank >= 0 && rank < worldSize)) throw new RangeError(`Sampler: rank ${rank} of ${worldSize}`);
    if (source.numTokens < seqLen + 1)
      throw new UserError(
        `data: ${source.numTokens} tokens are too few: sequences of ${seqLen} need ${seqLen + 1}; give more text or a smaller --seq`,
      );
    this.seqLen = seqLen;
    this.#source = source;
    this.#seed = seed;
    this.#rank = rank;
    this.#worldSize = worldSize;
    this.#window = new Int32Array(seqLen + 1);
  }

  /** Sequences in an epoch. */
  numSequences(epoch = this.#epoch): number {
    return Math.floor((this.#source.numTokens - 1 - this.#offset(epoch)) / this.seqLen);
  }

  /** This rank's next `batch` sequences; the whole job moves on by batch x worldSize. New arrays at each call. */
  nextBatch(batch: number): Batch {
    const { seqLen } = this;
    const inputs = new Int32Array(seqLen * batch);
    const targets = new Int32Array(seqLen * batch);
    for (let b = 0; b < batch; b++) {
      for (let rank = 0; rank < this.#worldSize; rank++) {
        if (rank === this.#rank) {
          this.#source.read(this.#position(), seqLen + 1, this.#window);
          scatter(this.#window, inputs, targets, b, batch);
        }
        this.#advance();
      }
    }
    return { inputs, targets, batch, seqLen };
  }

  state(): SamplerState {
    return { epoch: this.#epoch, index: this.#index };
  }

  /** Goes on from a saved state, also with another number of ranks. @throws UserError if it cannot be one of these data */
  restore(state: SamplerState): void {
    const { epoch, index } = state;
    const isState = Number.isSafeInteger(epoch) && epoch >= 0 && Number.isSafeInteger(index) && index >= 0;
    if (!isState || index >= this.numSequences(epoch))
      throw new UserError(
        `data: position ${index} of epoch ${epoch} does not fit these data (${isState ? this.numSequences(epoch) : '?'} sequences an epoch); was the text or --seq changed?`,
      );
    this.#epoch = epoch;
    this.#index = index;
  }

  #position(): number {
    const order = shuffled(this.#index, this.numSequences(), hash32(this.#seed, this.#epoch, 1));
    return this.#offset(this.#epoch) + order * this.seqLen;
  }

  #offset(epoch: number): number {
    const room = Math.min(this.seqLen, this.#source.numTokens - this.seqLen); // at least one sequence must remain
    return Math.floor((hash32(this.#seed, epoch, 2) / 2 ** 32) * room);
  }

  #advance(): void {
    this.#index++;
    if (this.#index < this.numSequences()) return;
    this.#epoch++;
    this.#index = 0;
  }
}

/**
 * All sequences in order, for evaluation: the same batches at every call. The last batch is filled up with sequences
 * whose targets are -1 (ignored by the loss), so that every batch has one shape and no text is left out.
 */
export function* evalBatches(
  source: TokenSource,
  options: { seqLen: number; batch: number; maxBatches?: number; rank?: number; worldSize?: number },
): Generator<Batch> {
  const { seqLen, batch, maxBatches = Infinity, rank = 0, worldSize = 1 } = options;
  const numSequences = Math.floor((source.numTokens - 1) / seqLen);
  const numBatches = Math.min(maxBatches, Math.ceil(numSequences / (batch * worldSize)));
  const window = new Int32Array(seqLen + 1);
  for (let i = 0; i < numBatches; i++) {
    const inputs = new Int32Array(seqLen * batch);
    const targets = new Int32Array(seqLen * batch).fill(-1);
    for (let b = 0; b < batch; b++) {
      const sequence = (i * batch + b) * worldSize + rank;
      if (sequence >= numSequences) break;
      source.read(sequence * seqLen, seqLen + 1, window);
      scatter(window, inputs, targets, b, batch);
    }
    yield { inputs, targets, batch, seqLen };
  }
}

/** Writes one window of seqLen + 1 tokens into column b. */
function scatter(window: Int32Array, inputs: Int32Array, targets: Int32Array, b: number, batch: number): void {
  for (let t = 0; t + 1 < window.length; t++) {
    inputs[t * batch + b] = window[t];
    targets[t * batch + b] = window[t + 1];
  }
}
