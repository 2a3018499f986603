import { Command } from 'commander';

export interface ImportCommandOptions {
  out: string;
  json?: boolean;
}

/** `fp8lm import`. @param result gets the exit code */
export function importCommand(result: { code: number }): Command {
  return new Command('import')
    .description('Make a checkpoint of a Hugging Face model (GPT-2, Llama), to train, generate and export from.')
    .argument('<folder>', 'config.json, model.safetensors (or its shards and their index), tokenizer.json')
    .requiredOption('--out <folder>', 'where the checkpoint goes; it must hold none yet')
    .option('--json', 'one JSON object {architecture, params, dtypes, tokenizer, path, numBytes} on stdout')
    .addHelpText(
      'after',
      `
Examples:
  fp8lm import ./gpt2 --out runs/gpt2
  fp8lm generate --checkpoint runs/gpt2 --prompt "Once upon a time"
  fp8lm train --init runs/gpt2 --recipe o2 --data book.txt --steps 500 --lr 1e-4 --seq 256 --out runs/tuned
  fp8lm export runs/tuned --out ./tuned-gpt2 --dtype bf16

\`train --init\` and \`generate --checkpoint\` read a Hugging Face folder directly, too. Weights keep their dtype (F32, F16, BF16);
what fp8lm would compute otherwise than the model's family does (RoPE scaling, another activation …) is refused.`,
    )
    .action(async (folder: string, options: ImportCommandOptions) => {
      const { importAndShow } = await import('../hf.ts');
      importAndShow(folder, options);
      result.code = 0;
    });
}
