import {
  type ActDType,
  embedding,
  type Init,
  type ModelContext,
  Module,
  Parameter,
  type ParameterLayout,
  type Tensor,
} from 'fp8-core';
import type { Group } from '../group.ts';
import { reduceFromTensorModelParallelRegion, reduceScatterToSequenceParallelRegion } from '../mappings/mappings.ts';
import { type Parallel, shardOver, vocabRange } from './parallel.ts';

export interface VocabEmbeddingOptions {
  init?: Init;
  /** Number of learned positions that are added; none by default. */
  numPositions?: number;
  /** Name of the positions' parameter. */
  positionsName?: string;
  /** See `ParameterLayout`. */
  tied?: ParameterLayout['tied'];
}

/** A table [vocab, dim] cut by rows over the tensor group: also what a parallel head multiplies by. */
export function vocabParallelTable(
  context: ModelContext,
  name: string,
  vocabSize: number,
  dim: number,
  parallel: Parallel,
  { init = { std: 0.02 }, tied }: VocabEmbeddingOptions = {},
): Parameter {
  const { tp } = parallel.mesh;
  const shard = shardOver(tp, [vocabSize, dim], 0, [vocabRange(vocabSize, tp)]);
  return new Parameter(context, name, [vocabSize, dim], 'embedding', init, { shard, tied });
}

/**
 * An embedding whose table is cut over the tensor group by ranges of the vocabulary: each rank looks up what it has, the sum
 * over the ranks is the embedding. Learned positions are on every rank and added to the rows that it has, so that each row is
 * rounded once, as on one rank; each rank's gradient of the positions is a part.
 */
export class VocabParallelEmbedding extends Module {
  readonly weight: Parameter;
  readonly positions: Parameter | null;
  private readonly group: Group;
  private readonly sequenceParallel: boolean;
  private readonly act: ActDType;

  /** @throws UserError if the vocabulary is smaller than the group */
  constructor(
    context: ModelContext,
    name: string,
    vocabSize: number,
    dim: number,
    parallel: Parallel,
    options: VocabEmbeddingOptions = {},
  ) {
    super();
    const { init = { std: 0.02 }, numPositions = 0, positionsName = `${name}.positions` } = options;
    this.group = parallel.mesh.tp;
    this.sequenceParallel = parallel.sequenceParallel && this.group.size > 1;
    this.act = context.recipe.act;
    this.weight = vocabParallelTable(context, `${name}.weight`, vocabSize, dim, parallel, options);
    const layout = { sumGrad: this.group.size > 1 };
    this.positions = numPositions
      ? new Parameter(context, positionsName, [numPositions, dim], 'embedding', init, layout)
      : null;
  }

  /**
   * @param tokens i32 [T, B], on every rank the whole
   * @param position position of the first row
   * @returns [T, B, C]; [T / tp, B, C] under sequence parallelism
   */
  forward(tokens: Tensor, position: number = 0): Tensor {
    const part = embedding(tokens, this.weight, this.positions, this.act, position);
    return this.sequenceParallel
      ? reduceScatterToSequenceParallelRegion(part, this.group)
      : reduceFromTensorModelParallelRegion(part, this.group);
  }
}
