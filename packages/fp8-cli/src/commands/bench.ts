import { Command, Option } from 'commander';
import { between, count, countOrZero } from '../numbers.ts';

export interface BenchGemmOptions {
  m: number;
  n: number;
  k: number;
  in: 'e4m3' | 'bf16' | 'f32';
  trans: 'nt' | 'nn' | 'tn';
  seconds: number;
  json?: boolean;
}

export interface BenchStepOptions {
  preset: string;
  recipe: string;
  device: 'auto' | 'cpu' | 'cuda' | 'ref';
  batch?: number;
  seq?: number;
  gradAccum: number;
  recompute?: boolean | 'full' | 'attention' | 'mlp';
  steps: number;
  warmup: number;
  top: number;
  json?: boolean;
}

export interface AllReduceCommandOptions {
  nproc: number;
  elements: number;
  dtype: 'fp32' | 'bf16' | 'e4m3';
  op: 'all-reduce' | 'reduce-scatter' | 'all-gather';
  seconds: number;
  json?: boolean;
}

/** `fp8lm bench …`. @param result gets the exit code */
export function benchCommand(result: { code: number }): Command {
  const bench = new Command('bench')
    .description("Measure this machine: matrix products, a training step's phases and kernels, all-reduces.")
    .addHelpText(
      'after',
      `
Examples:
  fp8lm bench gemm --m 2048 --n 3072 --k 768 --in e4m3
  fp8lm bench step --preset gpt-12m --recipe o2 --batch 8 --seq 256 --json
  fp8lm bench kernels --preset gpt2-124m --recipe o2 --batch 4 --seq 256
  fp8lm bench allreduce --nproc 2 --dtype e4m3`,
    );
  bench.addCommand(gemmCommand(result));
  bench.addCommand(allReduceCommand(result));
  bench.addCommand(
    stepOptions(new Command('step').description("One training step's time by phase, on random tokens."))
      .addHelpText(
        'after',
        `
Examples:
  fp8lm bench step --preset gpt-12m --recipe o2
  fp8lm bench step --preset gpt2-124m --recipe bf16 --batch 4 --seq 256 --steps 5 --json`,
      )
      .action(async (options: BenchStepOptions) => {
        const { benchStep } = await import('../bench/step.ts');
        benchStep(options, 'phases');
        result.code = 0;
      }),
  );
  bench.addCommand(
    stepOptions(new Command('kernels').description('Milliseconds and share of each kernel in a training step.'))
      .addHelpText(
        'after',
        `
Examples:
  fp8lm bench kernels --preset gpt-12m --recipe o2
  fp8lm bench kernels --preset gpt-nano --recipe bf16 --top 10 --json`,
      )
      .action(async (options: BenchStepOptions) => {
        const { benchStep } = await import('../bench/step.ts');
        benchStep(options, 'kernels');
        result.code = 0;
      }),
  );
  return bench;
}

function gemmCommand(result: { code: number }): Command {
  return new Command('gemm')
    .description("A matrix product's speed beside the machine's own multiply-add peak, measured in turn in one run.")
    .requiredOption('--m <n>', 'rows of the result', count)
    .requiredOption('--n <n>', 'columns of the result', count)
    .requiredOption('--k <n>', 'length of the sums', count)
    .addOption(new Option('--in <dtype>', 'dtype of both inputs').choices(['e4m3', 'bf16', 'f32']).default('bf16'))
    .addOption(
      new Option('--trans <form>', 'nt: forward, nn: gradient of the input, tn: gradient of the weight')
        .choices(['nt', 'nn', 'tn'])
        .default('nt'),
    )
    .option('--seconds <x>', 'time to measure for', between(0.05, 600), 2)
    .option('--json', '{gflops, peakGflops, fractionOfPeak, …} as one line')
    .addHelpText(
      'after',
      `
Examples:
  fp8lm bench gemm --m 2048 --n 3072 --k 768 --in bf16
  fp8lm bench gemm --m 1024 --n 50304 --k 768 --in e4m3 --json
  fp8lm bench gemm --m 2048 --n 768 --k 3072 --in f32 --trans tn

The peak is that of register-only multiply-adds on all threads: of bf16 inputs for e4m3 and bf16, of f32 for f32.`,
    )
    .action(async (options: BenchGemmOptions) => {
      const { benchGemm } = await import('../bench/gemm.ts');
      benchGemm(options);
      result.code = 0;
    });
}

function allReduceCommand(result: { code: number }): Command {
  return new Command('allreduce')
    .description('An all-reduce, or another collective, among ranks of this machine.')
    .option('--nproc <n>', 'ranks', count, 2)
    .option('--elements <n>', 'elements of the tensor', count, 16_777_216)
    .addOption(new Option('--dtype <name>', 'what is sent').choices(['fp32', 'bf16', 'e4m3']).default('e4m3'))
    .addOption(
      new Option('--op <name>', 'which collective; --elements counts the whole tensor')
        .choices(['all-reduce', 'reduce-scatter', 'all-gather'])
        .default('all-reduce'),
    )
    .option('--seconds <x>', 'time to measure for', between(0.05, 600), 2)
    .option('--json', '{msPerOp, elementsPerSecond, payloadBytesPerRank, latencyUsSmall} as one line')
    .addHelpText(
      'after',
      `
Examples:
  fp8lm bench allreduce --nproc 2 --elements 16777216 --dtype e4m3
  fp8lm bench allreduce --nproc 4 --elements 1048576 --dtype fp32 --json
  fp8lm bench allreduce --op reduce-scatter --nproc 2 --dtype bf16

benchmarks/peers/allreduce_gloo.py measures the same with PyTorch's gloo.`,
    )
    .action(async (options: AllReduceCommandOptions) => {
      const { benchAllReduceCommand } = await import('../bench/allreduce.ts');
      await benchAllReduceCommand(options);
      result.code = 0;
    });
}

function stepOptions(command: Command): Command {
  return command
    .option('--preset <name>', 'size of the model', 'gpt-12m')
    .option('--recipe <name>', 'precision', 'o2')
    .addOption(
      new Option('--device <name>', 'where to compute').choices(['auto', 'cpu', 'cuda', 'ref']).default('auto'),
    )
    .option('--batch <n>', 'sequences a micro-batch (default: 8; 4 above 50 million parameters)', count)
    .option('--seq <n>', "tokens a sequence (default: 256, or the model's if that is less)", count)
    .option('--grad-accum <n>', 'micro-batches a step', count, 1)
    .option('--recompute', 'recompute activations in the backward pass')
    .option('--steps <n>', 'steps to measure', count, 5)
    .option('--warmup <n>', 'steps before them', countOrZero, 2)
    .option('--top <n>', 'kernels to list', count, 12)
    .option('--json', 'one JSON object');
}
