// How a model is divided over the places of a pipeline: consecutive layers each; the first also embeds, the last has the final norm
// and the head.
import { UserError } from 'fp8-core';
import type { GptConfig } from './config.ts';

/** One place's part of a model. */
export interface GptPart {
  /** Embeds tokens; all others start from hidden states. */
  readonly first: boolean;
  /** Ends in the loss; all others end in hidden states. */
  readonly last: boolean;
  /** Layers [begin, end). */
  readonly layers: readonly [begin: number, end: number];
}

/** The part that is everything. */
export const wholeModel = (c: GptConfig): GptPart => ({ first: true, last: true, layers: [0, c.numLayers] });

/** The head's products as a number of layers: 2 V C multiplications a token beside 2 C (attention + MLP) of a layer. */
export function headInLayers(c: GptConfig): number {
  const headDim = c.hiddenSize / c.numHeads;
  const attention = c.hiddenSize * headDim * (2 * c.numHeads + 2 * c.numKvHeads);
  const mlp = c.hiddenSize * c.ffnSize * (c.activation === 'swiglu' ? 3 : 2);
  return (c.vocabSize * c.hiddenSize) / (attention + mlp);
}

/**
 * Layers of each place so that the slowest is as fast as can be, the head counted as layers of work; among equals the most even.
 * Every place gets a layer.
 * @throws UserError if there are fewer layers than places
 */
export function balancedLayers(c: GptConfig, places: number): number[] {
  if (places > c.numLayers) {
    throw new UserError(
      `pipeline: ${c.numLayers} layers on ${places} places (stages x chunks); need at least one layer each`,
    );
  }
  const head = headInLayers(c);
  // The last place gives layers away one by one while that makes the slowest place faster.
  let best: number[] = [];
  let bestCost = Number.POSITIVE_INFINITY;
  for (let last = Math.ceil(c.numLayers / places); last >= 1; last--) {
    const rest = c.numLayers - last;
    const others = places - 1;
    if (others === 0 && rest > 0) continue;
    if (others > 0 && Math.floor(rest / others) < 1) continue;
    // Larger shares stand in the middle: the first place embeds besides.
    const small = others > 0 ? Math.floor(rest / others) : 0;
    const numLarge = others > 0 ? rest % others : 0;
    const counts = Array.from({ length: others }, (_, i) => (i >= others - numLarge ? small + 1 : small));
    const cost = Math.max(last + head, ...counts);
    if (cost < bestCost - 1e-9) {
      bestCost = cost;
      best = [...counts, last];
    }
  }
  return best;
}

/**
 * The parts of all places, in the order a micro-batch visits them.
 * @param layout layers of each place; balanced by default
 * @throws UserError with the numbers if the layout does not give every layer a place
 */
export function pipelineParts(c: GptConfig, places: number, layout: readonly number[] | null = null): GptPart[] {
  const counts = layout ?? balancedLayers(c, places);
  const sum = counts.reduce((a, b) => a + b, 0);
  const isWhole = counts.every((n, i) => Number.isInteger(n) && n >= (i === 0 || i === places - 1 ? 0 : 1));
  if (counts.length !== places || sum !== c.numLayers || !isWhole) {
    throw new UserError(
      `pipeline: layout [${counts}] has ${sum} layers on ${counts.length} places; ` +
        `need ${c.numLayers} layers on ${places} places (stages x chunks), at least one on each between the first and the last`,
    );
  }
  let begin = 0;
  return counts.map((n, i) => {
    const part: GptPart = { first: i === 0, last: i === places - 1, layers: [begin, begin + n] };
    begin += n;
    return part;
  });
}
