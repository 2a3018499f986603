// GPT in FP8 on eight ranks: each layer on two, the layers on two stages, two copies of all that with batches of their own;
// sequence parallelism, ZeRO, FP8 payloads (recipe o3). The same as
//
//   npx fp8lm train gpt-nano --recipe o3 --tp 2 --pp 2 --dp 2 --sp --zero --grad-accum 4 --steps 20
//
//   npx fp8lm launch --nproc 8 -- npx tsx -C source examples/train_2x2x2.ts [steps]
import { UserError } from 'fp8-core';
import { init } from 'fp8-dist';
import { checkRunConfig, Ranks, runTraining } from 'fp8-train';

const config = checkRunConfig({
  model: 'gpt-nano',
  recipe: 'o3',
  tp: 2,
  sp: true,
  pp: 2,
  dp: 2,
  zero: 1,
  gradAccum: 4,
  batch: 2,
  seq: 64,
  tokenizer: 'byte',
  steps: Number(process.argv[2] ?? 20),
  evalEvery: 0,
});

const comm = await init();
try {
  const ranks = Ranks.of(comm, config); // says what is wrong if the world is not 2 x 2 x 2
  const summary = await runTraining(
    config,
    (event) => {
      if (ranks.isFirst && event.type === 'step') console.log(`step ${event.step}: loss ${event.loss.toFixed(3)}`);
    },
    undefined,
    ranks,
  );
  if (ranks.isFirst)
    console.log(`${ranks.mesh.describe()}: ${summary.params} parameters, held-out loss ${summary.valLoss?.toFixed(3)}`);
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  console.error(error.message);
  process.exitCode = 2;
} finally {
  await comm.close();
}
