// A Hugging Face folder as a checkpoint of ours: step 0 without an optimizer, the elements as they were, so that an imported model and
// what is exported from it are the same bits.
import { join } from 'node:path';
import { sizeOf, UserError } from 'fp8-core';
import { type GptConfig, toHfConfig } from 'fp8-models';
import { atomicWrite, latestCheckpoint, type TensorSource, writeCheckpoint } from '../files/index.ts';
import { stateFiles } from '../state.ts';
import { hfWeights } from './weights.ts';

/** What a checkpoint's imported.json tells: there is no trainer.json, as nothing was trained. */
export interface Imported {
  /** Such as `LlamaForCausalLM`. */
  architecture: string;
}

export interface ImportResult {
  architecture: string;
  config: GptConfig;
  /** Elements, each once. */
  params: number;
  /** Stored dtypes, such as `['BF16']`. */
  dtypes: string[];
  /** Ids of the tokenizer; null without one. */
  tokenizer: number | null;
  /** Of the checkpoint. */
  path: string;
  numBytes: number;
}

/**
 * Imports a model: `OUT/step-0` is a checkpoint that training, generation and every layout of ranks start from, `OUT/config.json` a
 * run file of its model.
 * @param dir config.json, model.safetensors (or shards and their index), tokenizer.json
 * @param out a folder without checkpoints
 * @throws UserError naming what is missing, damaged or not computed by fp8lm, or why the disk refuses
 */
export function importModel(dir: string, out: string): ImportResult {
  const earlier = latestCheckpoint(out);
  if (earlier) throw new UserError(`${out} holds a run already (${earlier.path}); choose another folder`);
  const weights = hfWeights(dir);
  try {
    const { config, tokenizer } = weights;
    const { family } = toHfConfig(config, { torchDtype: 'float32' });
    const tensors = [...family.tensors(config)].map(({ ours }): TensorSource => {
      const { dtype, shape } = weights.info(ours)!;
      return { name: ours, dtype, shape, bytes: () => weights.read(ours).bytes };
    });
    const json = {
      config,
      imported: { architecture: family.architecture } satisfies Imported,
      ...(tokenizer ? { tokenizer: tokenizer.toJSON(), tokenizer_config: tokenizer.toConfig() } : {}),
    };
    const files = [{ name: stateFiles.model, tensors, metadata: { format: 'pt' } }];
    const { path, numBytes } = writeCheckpoint(out, 0, files, json);
    atomicWrite(join(out, 'config.json'), `${JSON.stringify({ model: config }, null, 2)}\n`);
    return {
      architecture: family.architecture,
      config,
      params: tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0),
      dtypes: [...new Set(tensors.map(({ dtype }) => dtype))],
      tokenizer: tokenizer?.vocabSize ?? null,
      path,
      numBytes,
    };
  } finally {
    weights.close();
  }
}
