import { Command } from 'commander';
import { countOrZero } from '../numbers.ts';
import { addRunOptions, type RunOptions } from './run_options.ts';

export interface TrainOptions extends RunOptions {
  recipe?: string;
  resume?: boolean;
  maxRestarts?: number;
}

/** `fp8lm train`. @param result gets the exit code; `args` is the whole command line, for ranks to repeat */
export function trainCommand(result: { code: number; args: readonly string[] }): Command {
  const command = new Command('train')
    .description('Train a model: a preset by name, or a run file (.ts, .js, .json) with a run configuration.')
    .argument('[model]', 'preset or run file (default: gpt-nano)')
    .option('--recipe <name>', 'precision: fp32, bf16, te, o1, o2, o3 (default: o2)')
    .option('--resume', 'continue the run in --out, with its configuration where no flag says otherwise')
    .option(
      '--max-restarts <n>',
      'after a failure start again from the last checkpoint, at most so often without a new one (default: 0)',
      countOrZero,
    );
  return addRunOptions(command)
    .addHelpText(
      'after',
      `
Presets:
  gpt-nano gpt-12m gpt-30m gpt2-124m gpt2-355m gpt2-774m gpt2-1.5b gpt-7b llama-nano llama-15m llama-160m

Examples:
  fp8lm train                                          gpt-nano on built-in text
  fp8lm train gpt-12m --data book.txt --steps 1000 --eval-every 100 --out runs/book
  fp8lm train --resume --out runs/book --steps 2000    continue it
  fp8lm train gpt2-124m --data random --recipe bf16 --batch 4 --seq 256 --steps 5 --json
  fp8lm train gpt-12m --nproc 2 --zero --recipe o2     two ranks on this machine, the optimizer sharded
  fp8lm train gpt-12m --dp 4 --out runs/a --save-every 100 --max-restarts 3      whatever becomes of a rank
  fp8lm train --init ./gpt2 --recipe o2 --data book.txt --seq 256 --lr 1e-4 --out runs/tuned   fine-tune in FP8
  fp8lm train my_run.ts --set lr=2e-3 --set model.numLayers=8

With --json, stdout has one object a line: each step {step, loss, gradNorm, lr, tokens, stepMs, tokensPerSecond}, each
evaluation {step, valLoss}, and at the end {summary}. Ctrl-C ends the step, saves (with --out) and exits with code 130.`,
    )
    .action(async (model: string | undefined, options: TrainOptions) => {
      const { train } = await import('../train/train.ts');
      result.code = await train(model, options, result.args);
    });
}
