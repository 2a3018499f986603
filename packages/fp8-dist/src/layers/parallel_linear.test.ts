// In which order a parallel layer computes and talks: communication is to run under the products.
import { type Backend, empty, modelContext, record, recipes, referenceBackend, scope } from 'fp8-core';
import { describe, expect, it } from 'vitest';
import { Group } from '../group.ts';
import { Mesh } from '../mesh.ts';
import type { Work } from '../work.ts';
import { ColumnParallelLinear, RowParallelLinear } from './linear.ts';

const log: string[] = [];

/** One of two ranks whose partner is silent; tells when collectives begin and are waited for. */
class LoggedGroup extends Group {
  constructor() {
    super(null, 'tp', 1, [0, 1], 0);
  }
  private logged(what: string, work: Work): Work {
    log.push(what);
    return {
      wait: () => {
        log.push(`wait ${what}`);
        work.wait();
      },
      isDone: true,
    };
  }
  override allGather(...args: Parameters<Group['allGather']>): Work {
    return this.logged(`gather ${dtype(args[1])}`, super.allGather(...args));
  }
  override reduceScatter(...args: Parameters<Group['reduceScatter']>): Work {
    return this.logged('reduce-scatter', super.reduceScatter(...args));
  }
  override allReduce(...args: Parameters<Group['allReduce']>): Work {
    return this.logged(args[1]?.op === 'max' ? 'max' : 'all-reduce', super.allReduce(...args));
  }
  override allToAll(...args: Parameters<Group['allToAll']>): Work {
    return this.logged(`all-to-all ${dtype(args[1])}`, super.allToAll(...args));
  }
}

const dtype = (x: unknown): string => (x as { dtype: string }).dtype;

function loggedBackend(): Backend {
  const backend = referenceBackend();
  const { gemm } = backend.kernels;
  const names = ['y = x w', '', 'dx = dy w', 'dw = dy x'];
  const kernels = {
    ...backend.kernels,
    gemm(args: Parameters<typeof gemm>[0]) {
      log.push(names[args.trans_b ? 0 : args.trans_a ? 3 : 2]);
      gemm(args);
    },
  };
  return { ...backend, kernels };
}

function order(layer: 'column' | 'row', recipe: keyof typeof recipes, sequenceParallel: boolean): string[] {
  const group = new LoggedGroup();
  const alone = Mesh.single();
  const mesh = new Mesh({ ...alone, tp: group });
  const backend = loggedBackend();
  const context = modelContext(backend, recipes[recipe], 1);
  const parallel = { mesh, sequenceParallel };
  const module =
    layer === 'column'
      ? new ColumnParallelLinear(context, 'l', 8, 16, parallel)
      : new RowParallelLinear(context, 'l', 16, 8, parallel);
  log.length = 0;
  scope(() => {
    const cut = layer === 'column' && sequenceParallel ? 2 : 4;
    const x = empty(backend, [cut, 1, 8], context.recipe.act);
    backend.kernels.fill({ y: x, n: x.size, value: 1 });
    const run = record(() => module.forward(x), [x]);
    log.push('backward');
    const dy = empty(backend, run.output.shape, context.recipe.act);
    backend.kernels.fill({ y: dy, n: dy.size, value: 1 });
    run.backward(dy);
  });
  return [...log];
}

describe('backward of a column-parallel layer', () => {
  it('gathers x under dx, and reduces dx under dw', () => {
    const all = order('column', 'bf16', true);
    expect(all.slice(all.indexOf('backward'))).toEqual([
      'backward',
      'gather bf16',
      'dx = dy w',
      'reduce-scatter',
      'wait gather bf16',
      'dw = dy x',
      'wait reduce-scatter',
    ]);
  });

  it('without sequence parallelism reduces dx under dw, and gathers nothing', () => {
    const all = order('column', 'bf16', false);
    expect(all).toEqual(['y = x w', 'backward', 'dx = dy w', 'all-reduce', 'dw = dy x', 'wait all-reduce']);
  });

  it('under o3 gathers e4m3 in forward and keeps it', () => {
    const all = order('column', 'o3', true);
    expect(all).toEqual([
      'gather e4m3',
      'wait gather e4m3',
      'y = x w',
      'backward',
      'dx = dy w',
      'reduce-scatter',
      'dw = dy x',
      'wait reduce-scatter',
    ]);
  });
});

it('a row-parallel layer reduces in forward, and in backward gathers dy before its products', () => {
  expect(order('row', 'o3', true)).toEqual([
    'y = x w',
    'reduce-scatter',
    'wait reduce-scatter',
    'backward',
    'gather bf16',
    'wait gather bf16',
    'dx = dy w',
    'dw = dy x',
  ]);
  expect(order('row', 'bf16', false)).toEqual([
    'y = x w',
    'all-reduce',
    'wait all-reduce',
    'backward',
    'dx = dy w',
    'dw = dy x',
  ]);
});
