// A linear layer cut over all ranks, and the same layer whole: equal outputs, a part of the weight.
//
//   npx fp8lm launch --nproc 2 -- npx tsx -C source examples/tensor_parallel_layer.ts
import { empty, modelContext, record, recipeNamed, scope, type Tensor } from 'fp8-core';
import { alone, ColumnParallelLinear, init, initializeModelParallel, RowParallelLinear } from 'fp8-dist';
import { backendFor } from 'fp8-train';

const comm = await init();
const backend = backendFor('auto');
const mesh = initializeModelParallel(comm, { tensor: comm.size });

/** down(up(x)): up is cut by its outputs, down by its inputs, so that what lies between never leaves its rank. */
function twoLayers(parallel = alone()) {
  const context = modelContext(backend, recipeNamed('fp32'), 1);
  const up = new ColumnParallelLinear(context, 'up', 64, 256, parallel);
  const down = new RowParallelLinear(context, 'down', 256, 64, parallel);
  return { up, forward: (x: Tensor) => down.forward(up.forward(x)) };
}

function read(t: Tensor): Float32Array {
  const values = new Float32Array(t.size);
  backend.read(t.handle, new Uint8Array(values.buffer));
  return values;
}

scope(() => {
  const x = empty(backend, [8, 2, 64], 'f32'); // [T, B, C], the same on every rank
  backend.kernels.random_normal({ y: x, n: x.size, std: 1, seed: 2, stream: 0, offset: 0 });

  const parts = twoLayers({ mesh, sequenceParallel: false });
  const run = record(() => parts.forward(x), [x]);
  const y = read(run.output);
  const [dx] = run.backward(run.output); // gradients: of x, and in each parameter's `grad`

  const whole = read(twoLayers().forward(x));
  const worst = Math.max(...whole.map((v, i) => Math.abs(v - y[i])));
  const { shape, wholeShape } = parts.up.weight;
  console.log(
    `rank ${comm.rank} of ${comm.size}: up.weight [${shape}] of [${wholeShape}], dx [${dx?.shape}], ` +
      `largest difference from one rank ${worst < 1e-6 ? 'below 1e-6' : worst}`,
  );
});
await comm.close();
