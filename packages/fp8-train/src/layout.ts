// How a run lies on ranks: world = tp x pp x dp, and what must divide. Checked before anything is built.
import { type ModelContext, UserError } from 'fp8-core';
import { type Mesh, planSchedule } from 'fp8-dist';
import { checkTensorParallel, Gpt, type GptConfig, PipelinedGpt, pipelineParts } from 'fp8-models';
import type { RunConfig } from './run_config.ts';

type Layout = Pick<RunConfig, 'tp' | 'pp' | 'dp' | 'virtual' | 'layout' | 'sp' | 'gradAccum' | 'seq'>;

/** Ranks that a run needs; with `dp` left open, the least. */
export const ranksNeeded = ({ tp, pp, dp }: Layout): number => tp * pp * (dp ?? 1);

/** @throws UserError with the equation if the layout does not fill the world */
export function checkWorld(size: number, { tp, pp, dp }: Layout): void {
  const model = tp * pp;
  const isFilled = dp === null ? size % model === 0 : size === model * dp;
  if (isFilled) return;
  const equation = `world size ${size} = tp ${tp} x pp ${pp} x dp ${dp ?? Number((size / model).toFixed(3))}`;
  throw new UserError(
    dp === null
      ? `${equation}: dp must be whole; run a multiple of ${model} ranks`
      : `${equation} does not hold: the product is ${model * dp}; use --nproc ${model * dp}, or leave --dp out`,
  );
}

/** @throws UserError with the numbers if the model, the sequence or the micro-batches do not divide */
export function checkLayout(config: Layout, model: GptConfig): void {
  const { pp, virtual, layout, gradAccum, tp, sp } = config;
  planSchedule({ stages: pp, microbatches: gradAccum, virtual });
  pipelineParts(model, pp * virtual, layout);
  checkTensorParallel(model, tp);
  const seq = config.seq ?? model.maxSeqLen;
  if (sp && seq % tp)
    throw new UserError(`sp: a sequence of ${seq} tokens is not a multiple of tp ${tp}; choose another --seq or --tp`);
  if (sp && tp === 1)
    throw new UserError(
      'sp: sequence parallelism splits sequences over the tensor-parallel ranks; there is one (tp 1)',
    );
}

/** What this rank holds of the model. @throws UserError if the layers do not go on the stages */
export function buildModel(
  context: ModelContext,
  model: GptConfig,
  { layout, sp }: Pick<RunConfig, 'layout' | 'sp'>,
  mesh: Mesh,
): Gpt | PipelinedGpt {
  const { pp, virtualPipeline: virtual } = mesh;
  const parallel = { mesh, sequenceParallel: sp };
  if (pp.size === 1) return new Gpt(context, model, undefined, parallel);
  return new PipelinedGpt(context, model, { rank: pp.rank, stages: pp.size, virtual, layout }, parallel);
}
