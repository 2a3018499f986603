// `fp8lm import` and `fp8lm export`: what they print.
import type { ExportCommandOptions } from './commands/export.ts';
import type { ImportCommandOptions } from './commands/import.ts';
import { facts, note, print, printJson } from './output.ts';
import { exportModel, formatBytes, formatCount, type GptConfig, importModel } from './train/fp8.ts';

const shapeOf = ({ numLayers, numHeads, numKvHeads, hiddenSize, vocabSize, maxSeqLen }: GptConfig): string => {
  const heads = numKvHeads === numHeads ? `${numHeads} heads` : `${numHeads} heads on ${numKvHeads} of keys and values`;
  return `${numLayers} layers, ${heads}, width ${hiddenSize}, vocabulary ${vocabSize}, ${maxSeqLen} positions`;
};

/** @throws UserError for what the user can put right */
export function importAndShow(folder: string, { out, json }: ImportCommandOptions): void {
  const { config, ...result } = importModel(folder, out);
  if (json) return printJson(result);
  const { architecture, params, dtypes, tokenizer, path, numBytes } = result;
  print(
    facts([
      ['model', `${architecture}, ${formatCount(params)} parameters`],
      ['shape', shapeOf(config)],
      ['weights', `${dtypes.join(', ')}, ${formatBytes(numBytes)}`],
      ['tokenizer', tokenizer === null ? 'none' : `${tokenizer} ids`],
      ['checkpoint', path],
    ]),
  );
  if (tokenizer === null)
    note(
      `${folder} has no tokenizer.json: generating needs one, training a --tokenizer that the model was trained with`,
    );
}

/** @throws UserError for what the user can put right */
export function exportAndShow(run: string, { out, dtype, json }: ExportCommandOptions): void {
  const { config, ...result } = exportModel(run, out, dtype);
  if (json) return printJson(result);
  const { architecture, params, tokenizer, step, path, numBytes } = result;
  print(
    facts([
      ['model', `${architecture}, ${formatCount(params)} parameters, step ${step}`],
      ['shape', shapeOf(config)],
      ['weights', `${result.dtype}, ${formatBytes(numBytes)}`],
      ['tokenizer', tokenizer === null ? 'none' : `${tokenizer} ids`],
      ['folder', path],
    ]),
  );
}
