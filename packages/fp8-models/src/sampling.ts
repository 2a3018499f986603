/**
 * Choosing the next token from logits: temperature, then top-k, then top-p, then one draw.
 * The draw is a pure function of seed and position, so a text can be continued or repeated from any place.
 * @see Holtzman et al. 2020 (arXiv:1904.09751) for top-p
 */
import { uniform } from './random.ts';

export interface SamplingOptions {
  /** 0 takes the most likely token; 1 the model's own distribution. Default 1. */
  temperature?: number;
  /** Keep the k most likely tokens. Default: all. */
  topK?: number;
  /** Keep the most likely tokens that together reach this probability, in (0, 1]. Default 1: all. */
  topP?: number;
  /** Default 0. */
  seed?: number;
}

/**
 * Draws one token.
 * @param logits [V]; -Infinity forbids a token
 * @param position place of the new token in the text: the counter of the draw
 * @returns id in [0, V); equal logits go to the smaller id
 * @throws RangeError for NaN or +Infinity among the logits, none allowed, or options out of range
 */
export function sampleToken(logits: Float32Array, options: SamplingOptions = {}, position = 0): number {
  const { temperature = 1, topK = logits.length, topP = 1, seed = 0 } = options;
  checkOptions(temperature, topK, topP);
  const best = argmax(logits);
  if (temperature === 0 || topK === 1) return best;

  // exp(logit - max): the largest is 1, so nothing overflows and the sum is at least 1.
  const weights = new Float64Array(logits.length);
  const max = logits[best];
  for (let i = 0; i < logits.length; i++) weights[i] = Math.exp((logits[i] - max) / temperature);
  const kept = nucleus(topK < logits.length ? largest(weights, topK) : undefined, weights, topP);

  let total = 0;
  forEachKept(kept, weights.length, (id) => {
    total += weights[id];
  });
  let rest = uniform(seed, position) * total;
  let chosen = best;
  forEachKept(kept, weights.length, (id) => {
    if (weights[id] === 0) return false;
    chosen = id;
    rest -= weights[id];
    return rest < 0;
  });
  return chosen;
}

/** Index of the largest value, the first among equals. Throws RangeError for NaN, +Infinity or nothing finite. */
export function argmax(logits: Float32Array): number {
  let best = -1;
  for (let i = 0; i < logits.length; i++) {
    const value = logits[i];
    if (Number.isNaN(value) || value === Infinity)
      throw new RangeError(`sampling: logit ${i} is ${value}; the model has diverged or its weights are damaged`);
    if (value > (best < 0 ? -Infinity : logits[best])) best = i;
  }
  if (best < 0) throw new RangeError(`sampling: none of the ${logits.length} logits is finite`);
  return best;
}

/** Ids of the k largest weights, by falling weight (smaller id first among equals): a heap of k, worst on top. */
function largest(weights: Float64Array, k: number): number[] {
  const isWorse = (a: number, b: number) => weights[a] < weights[b] || (weights[a] === weights[b] && a > b);
  const heap: number[] = [];
  const sink = (start: number) => {
    let i = start;
    const id = heap[i];
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isWorse(heap[child + 1], heap[child])) child++;
      if (!isWorse(heap[child], id)) break;
      heap[i] = heap[child];
      i = child;
    }
    heap[i] = id;
  };
  for (let id = 0; id < weights.length; id++) {
    if (heap.length < k) {
      heap.push(id);
      if (heap.length === k) for (let i = k >> 1; i >= 0; i--) sink(i);
    } else if (isWorse(heap[0], id)) {
      heap[0] = id;
      sink(0);
    }
  }
  return heap.sort((a, b) => weights[b] - weights[a] || a - b);
}

/** The smallest set of most likely tokens whose probability reaches topP; undefined keeps all. */
function nucleus(sorted: number[] | undefined, weights: Float64Array, topP: number): number[] | undefined {
  if (topP >= 1) return sorted;
  let total = 0;
  let candidates = sorted;
  if (candidates === undefined) {
    for (const weight of weights) total += weight;
    // Tokens below (1 - topP) / V together stay below 1 - topP, so none of them can be needed: sort the others only.
    const floor = ((1 - topP) * total) / weights.length;
    candidates = [];
    for (let id = 0; id < weights.length; id++) if (weights[id] >= floor) candidates.push(id);
    candidates.sort((a, b) => weights[b] - weights[a] || a - b);
  } else for (const id of candidates) total += weights[id];
  let sum = 0;
  let count = 0;
  while (count < candidates.length && sum < topP * total) sum += weights[candidates[count++]];
  return candidates.slice(0, Math.max(1, count));
}

/** Visits kept ids (all of [0, length) if undefined) until the visitor returns true. */
function forEachKept(kept: number[] | undefined, length: number, visit: (id: number) => boolean | void): void {
  if (kept === undefined) {
    for (let id = 0; id < length; id++) if (visit(id)) return;
  } else for (const id of kept) if (visit(id)) return;
}

function checkOptions(temperature: number, topK: number, topP: number): void {
  if (!(temperature >= 0 && temperature < Infinity))
    throw new RangeError(`sampling: temperature is ${temperature}; it must be 0 (greedy) or above`);
  if (!(Number.isInteger(topK) && topK >= 1)) throw new RangeError(`sampling: topK is ${topK}; it must be 1 or more`);
  if (!(topP > 0 && topP <= 1)) throw new RangeError(`sampling: topP is ${topP}; it must be in (0, 1]`);
}
