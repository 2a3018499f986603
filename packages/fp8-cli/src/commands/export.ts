import { Command, Option } from 'commander';

export interface ExportCommandOptions {
  out: string;
  dtype?: 'f32' | 'bf16' | 'f16';
  json?: boolean;
}

/** `fp8lm export`. @param result gets the exit code */
export function exportCommand(result: { code: number }): Command {
  return new Command('export')
    .description('Write a checkpoint as a Hugging Face model folder, for transformers and whatever else reads it.')
    .argument('<run>', "a run's folder (its newest checkpoint) or one checkpoint's")
    .requiredOption('--out <folder>', 'where the model goes; it must be empty or not there yet')
    .addOption(
      new Option('--dtype <name>', "of all weights (default: an imported model's own, else f32)").choices([
        'f32',
        'bf16',
        'f16',
      ]),
    )
    .option('--json', 'one JSON object {architecture, params, dtype, tokenizer, step, path, numBytes} on stdout')
    .addHelpText(
      'after',
      `
Examples:
  fp8lm export runs/book --out ./book-model
  fp8lm export runs/book/step-1000 --out ./book-1000 --dtype bf16
  python3 -c "from transformers import AutoModelForCausalLM as M; print(M.from_pretrained('./book-model'))"

Shapes that a family has: GPT-2 (learned positions, layer norm, GELU, biases) and Llama (RoPE, RMS norm, SwiGLU).`,
    )
    .action(async (run: string, options: ExportCommandOptions) => {
      const { exportAndShow } = await import('../hf.ts');
      exportAndShow(run, options);
      result.code = 0;
    });
}
