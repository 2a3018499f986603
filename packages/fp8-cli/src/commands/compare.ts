import { Command } from 'commander';
import { between } from '../numbers.ts';
import { addRunOptions, type RunOptions } from './run_options.ts';

export interface CompareOptions extends RunOptions {
  recipes: string;
  minutes?: number;
  sample: string;
}

/** `fp8lm compare`. @param result gets the exit code */
export function compareCommand(result: { code: number }): Command {
  const command = new Command('compare')
    .description('Train the same model on the same data in several recipes, and set the results side by side.')
    .argument('[model]', 'preset or run file (default: gpt-nano)')
    .option('--recipes <names>', 'recipes, separated by commas', 'bf16,o2')
    .option('--minutes <x>', 'choose --steps so that all runs together take about this long', between(0.05))
    .option('--sample <text>', 'prompt of the text that the last model writes at the end', 'interface ');
  return addRunOptions(command)
    .addHelpText(
      'after',
      `
Examples:
  fp8lm compare                                                   gpt-nano in bf16 and in o2
  fp8lm compare gpt-nano --minutes 2 --out runs/compare           with checkpoints and a report
  fp8lm compare gpt-12m --recipes fp32,bf16,te,o1,o2 --data book.txt --steps 1000 --out runs/book

With --json, stdout has the lines of \`train\`, each with its recipe, and at the end {comparison}.`,
    )
    .action(async (model: string | undefined, options: CompareOptions) => {
      const { compare } = await import('../train/compare.ts');
      result.code = await compare(model, options);
    });
}
