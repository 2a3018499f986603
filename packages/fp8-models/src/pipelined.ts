// A model on a pipeline, as one rank sees it: the parts at its places, v of them with virtual stages.
import { type ModelContext, Module, type Tensor } from 'fp8-core';
import { alone, type Parallel } from 'fp8-dist';
import type { GptConfig } from './config.ts';
import { Gpt } from './gpt.ts';
import { pipelineParts } from './parts.ts';

/** Where a rank stands in a pipeline. */
export interface PipelinePosition {
  rank: number;
  /** Ranks of the pipeline. */
  stages: number;
  /** Chunks a rank; chunk c of a rank is place c * stages + rank. */
  virtual?: number;
  /** Layers of each place; balanced by default. */
  layout?: readonly number[] | null;
}

export class PipelinedGpt extends Module {
  readonly context: ModelContext;
  readonly config: GptConfig;
  /** In the order a micro-batch visits them. */
  readonly chunks: readonly Gpt[];
  private readonly parallel: Parallel;

  /** @throws UserError if the layers do not go on the places, or do not divide among the tensor group */
  constructor(context: ModelContext, config: GptConfig, position: PipelinePosition, parallel = alone()) {
    super();
    const { rank, stages, virtual = 1, layout = null } = position;
    const parts = pipelineParts(config, stages * virtual, layout);
    this.context = context;
    this.config = config;
    this.parallel = parallel;
    this.chunks = Array.from(
      { length: virtual },
      (_, c) => new Gpt(context, config, parts[c * stages + rank], parallel),
    );
  }

  /** Shape of the hidden states that go from place to place. */
  boundaryShape(seq: number, batch: number): number[] {
    const { mesh, sequenceParallel } = this.parallel;
    return [sequenceParallel ? seq / mesh.tp.size : seq, batch, this.config.hiddenSize];
  }

  /** For whole models; the trainer runs `chunks`. */
  loss(): Tensor {
    throw new Error('internal: a rank of a pipeline has no loss of its own; run its chunks');
  }
}
