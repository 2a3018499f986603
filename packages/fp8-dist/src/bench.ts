// `fp8lm bench allreduce`: time of a collective over ranks on this machine, as fp8-dist runs it in training. The peer script
// benchmarks/peers/allreduce_gloo.py measures gloo in the same way.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { empty, type DType, persist, type Tensor, UserError } from 'fp8-core';
import type { Communicator } from './communicator.ts';
import { init } from './init.ts';
import type { Operand } from './operand.ts';

export const benchCollectives = ['all-reduce', 'reduce-scatter', 'all-gather'] as const;
export type BenchCollective = (typeof benchCollectives)[number];

export interface BenchAllReduceOptions {
  nproc: number;
  elements: number;
  dtype: 'fp32' | 'bf16' | 'e4m3';
  /** Default all-reduce. `elements` counts the whole tensor, of which each rank has or gets its share in the others. */
  op?: BenchCollective;
  /** How long to measure large all-reduces, at most. Default 2. */
  seconds?: number;
}

export interface BenchAllReduceResult {
  /** Median over rounds of the slowest rank. */
  msPerOp: number;
  elementsPerSecond: number;
  /** Bytes that one rank hands over in one all-reduce, headers included. */
  payloadBytesPerRank: number;
  /** Microseconds of an all-reduce of 1,024 f32 elements, back to back. */
  latencyUsSmall: number;
}

const names = { fp32: 'f32', bf16: 'bf16', e4m3: 'e4m3' } as const;

/** Starts `nproc` ranks on this machine and measures. @throws UserError on bad options; Error if a rank fails */
export async function benchAllReduce(options: BenchAllReduceOptions): Promise<BenchAllReduceResult> {
  const { nproc, elements, dtype } = options;
  if (!Number.isInteger(nproc) || nproc < 2 || nproc > 64) throw new UserError(`--nproc is ${nproc}; expected 2 to 64`);
  if (!Number.isInteger(elements) || elements < 1 || elements > 2 ** 31)
    throw new UserError(`--elements is ${elements}; expected 1 to 2^31`);
  if (!benchCollectives.includes(options.op ?? 'all-reduce'))
    throw new UserError(`--op is ${options.op}; expected ${benchCollectives.join(', ')}`);
  if (!Object.hasOwn(names, dtype)) throw new UserError(`--dtype is ${dtype}; expected fp32, bf16 or e4m3`);
  const folder = mkdtempSync(join(tmpdir(), 'fp8lm-'));
  const self = fileURLToPath(import.meta.url);
  const typescript = self.endsWith('.ts') ? ['--import', 'tsx', '--conditions=source'] : [];
  try {
    const ranks = Array.from({ length: nproc }, (_, rank) => {
      const env = {
        ...process.env,
        RANK: `${rank}`,
        WORLD_SIZE: `${nproc}`,
        LOCAL_RANK: `${rank}`,
        LOCAL_WORLD_SIZE: `${nproc}`,
        FP8_JOB_FOLDER: folder,
        FP8_THREADS: '1',
        FP8_BENCH_ALLREDUCE: JSON.stringify(options),
      };
      return spawn(process.execPath, [...typescript, self], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    });
    const outputs = await Promise.all(
      ranks.map(
        (child, rank) =>
          new Promise<string>((resolve, reject) => {
            let out = '';
            child.stdout.on('data', (d) => {
              out += d;
            });
            child.on('error', reject);
            child.on('close', (code) =>
              code === 0 ? resolve(out) : reject(new Error(`bench allreduce: rank ${rank} ended with ${code}`)),
            );
          }),
      ),
    );
    return JSON.parse(outputs[0]) as BenchAllReduceResult;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A tensor of the native backend where there is one, so that the worker reads it in place as in training. */
async function operand(comm: Communicator, dtype: DType, elements: number): Promise<Operand> {
  const bytes = { f32: 4, bf16: 2, e4m3: 1 }[dtype as 'f32' | 'bf16' | 'e4m3'];
  if (!comm.native) {
    const data = new Uint8Array(new SharedArrayBuffer(elements * bytes));
    return dtype === 'f32'
      ? new Float32Array(data.buffer)
      : { dtype, data: dtype === 'bf16' ? new Uint16Array(data.buffer) : data, scale: 1 };
  }
  const name = 'cpu-backend';
  const { cpuBackend } = (await import(name)) as { cpuBackend: () => Tensor['backend'] };
  const x = persist(() => empty(cpuBackend(), [elements], dtype));
  x.backend.kernels.fill({ y: x, n: elements, value: 0 });
  return x;
}

function timeRounds(comm: Communicator, seconds: number, op: () => void): number {
  const { world } = comm;
  for (let i = 0; i < 3; i++) op();
  world.barrier().wait();
  let start = performance.now();
  op();
  const once = new Float32Array([performance.now() - start]);
  world.allReduce(once, { op: 'max' }).wait();
  const rounds = Math.max(5, Math.min(200, Math.floor((seconds * 1000) / Math.max(once[0], 0.01))));
  const times = new Float32Array(rounds);
  for (let i = 0; i < rounds; i++) {
    world.barrier().wait();
    start = performance.now();
    op();
    times[i] = performance.now() - start;
  }
  world.allReduce(times, { op: 'max' }).wait();
  return times.sort()[rounds >> 1];
}

async function rankMain(options: BenchAllReduceOptions): Promise<void> {
  const comm = await init();
  const { world } = comm;
  const { op = 'all-reduce' } = options;
  const dtype = names[options.dtype];
  const share = Math.ceil(options.elements / comm.size);
  const elements = op === 'all-reduce' ? options.elements : share * comm.size;
  const x = await operand(comm, dtype, elements);
  const part = op === 'all-reduce' ? x : await operand(comm, dtype, share);
  // The result is reduced again and again: `keep` leaves the scale of e4m3 as it is, where `fit` would halve it each time.
  const run = {
    'all-reduce': () => world.allReduce(x, { range: 'keep' }).wait(),
    'reduce-scatter': () => world.reduceScatter(part, x, { range: 'keep' }).wait(),
    'all-gather': () => world.allGather(x, part).wait(),
  };
  const reduce = run[op];
  const msPerOp = timeRounds(comm, options.seconds ?? 2, reduce);
  const before = comm.traffic();
  reduce();
  const payloadBytesPerRank = comm.traffic().sent - before.sent;
  const small = await operand(comm, 'f32', 1024);
  const latencies = Array.from({ length: 6 }, () => {
    world.barrier().wait();
    const start = performance.now();
    for (let i = 0; i < 200; i++) world.allReduce(small).wait();
    return ((performance.now() - start) / 200) * 1000;
  });
  const latencyUsSmall = latencies.slice(1).sort((a, b) => a - b)[2];
  if (comm.rank === 0) {
    const round = (v: number) => Math.round(v * 1000) / 1000;
    const result: BenchAllReduceResult = {
      msPerOp: round(msPerOp),
      elementsPerSecond: Math.round(elements / (msPerOp / 1000)),
      payloadBytesPerRank,
      latencyUsSmall: round(latencyUsSmall),
    };
    process.stdout.write(`${JSON.stringify(result)}\n`);
  }
  await comm.close();
}

if (process.env.FP8_BENCH_ALLREDUCE && process.argv[1] === fileURLToPath(import.meta.url)) {
  await rankMain(JSON.parse(process.env.FP8_BENCH_ALLREDUCE) as BenchAllReduceOptions);
}
