import { initializeModelParallel } from '../../src/index.ts';
import type { Communicator, ModelParallelSizes } from '../../src/index.ts';

/** Members of every group of this rank, or the error. */
export default function mesh(comm: Communicator, sizes: ModelParallelSizes): Record<string, readonly number[] | null> {
  const m = initializeModelParallel(comm, sizes);
  const sum = new Int32Array([comm.rank]);
  m.tpDp.allReduce(sum).wait();
  return {
    tp: m.tp.ranks,
    dp: m.dp.ranks,
    pp: m.pp.ranks,
    model: m.model.ranks,
    tpDp: m.tpDp.ranks,
    embedding: m.embedding?.ranks ?? null,
    sum: [...sum],
    neighbours: [m.getPipelineModelParallelPrevRank(), m.getPipelineModelParallelNextRank()],
    firstLast: [Number(m.isPipelineFirstStage()), Number(m.isPipelineLastStage())],
  };
}
