import { Command, Option } from 'commander';
import { between, count, countOrZero } from '../numbers.ts';

export interface GenerateCommandOptions {
  checkpoint: string;
  prompt: string;
  maxTokens: number;
  temperature: number;
  topK?: number;
  topP: number;
  seed: number;
  device: 'auto' | 'cpu' | 'cuda' | 'ref';
  json?: boolean;
}

/** `fp8lm generate`. @param result gets the exit code */
export function generateCommand(result: { code: number }): Command {
  return new Command('generate')
    .description('Continue a text with a trained model.')
    .requiredOption(
      '--checkpoint <folder>',
      "a run's folder (its newest checkpoint), one checkpoint's, or a Hugging Face model",
    )
    .requiredOption('--prompt <text>', 'text to continue')
    .option('--max-tokens <n>', 'tokens to write', count, 200)
    .option('--temperature <x>', '0 takes the likeliest token, 1 draws as the model says', between(0), 0.8)
    .option('--top-k <n>', 'draw among the k likeliest tokens only', count)
    .option('--top-p <x>', 'draw among the likeliest tokens of this probability together', between(0, 1), 1)
    .option('--seed <n>', 'the same seed writes the same text', countOrZero, 0)
    .addOption(
      new Option('--device <name>', 'where to compute').choices(['auto', 'cpu', 'cuda', 'ref']).default('auto'),
    )
    .option('--json', 'one JSON object {prompt, text, tokens, tokensPerSecond} at the end instead of the text')
    .addHelpText(
      'after',
      `
Examples:
  fp8lm generate --checkpoint runs/start/o2 --prompt "interface "
  fp8lm generate --checkpoint runs/book --prompt "Once upon a time" --max-tokens 400 --top-k 40 --seed 7
  fp8lm generate --checkpoint runs/book/step-1000 --prompt "The" --temperature 0 --json`,
    )
    .action(async (options: GenerateCommandOptions) => {
      const { writeText } = await import('../generate.ts');
      writeText(options);
      result.code = 0;
    });
}
