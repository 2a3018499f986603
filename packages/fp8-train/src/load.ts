import { modelContext, recipeNamed, UserError } from 'fp8-core';
import { Gpt, type GptConfig, type Tokenizer } from 'fp8-models';
import { backendFor, type Device } from './backend.ts';
import type { RunConfig } from './run_config.ts';
import { restoreWeights } from './state.ts';
import { assignWeights, openWeights } from './weights.ts';

export interface LoadedModel {
  model: Gpt;
  tokenizer: Tokenizer;
  config: GptConfig;
  /** Step of the checkpoint. */
  step: number;
}

/**
 * Loads a trained model for generation, in the recipe it was trained with; an imported one in fp32 or bf16, as it is stored.
 * @param dir a run's folder (its newest checkpoint), one checkpoint's, or a Hugging Face model folder
 * @throws UserError naming the file and what is wrong with it
 */
export function loadModel(dir: string, device: Device = 'auto'): LoadedModel {
  const weights = openWeights(dir);
  try {
    const { path, config, tokenizer, checkpoint } = weights;
    if (!tokenizer) {
      const why = checkpoint?.json.trainer ? 'was it trained on random tokens?' : 'its folder had no tokenizer.json';
      throw new UserError(`${path} has no tokenizer (${why})`);
    }
    const trained = checkpoint?.json.trainer as { run: RunConfig } | undefined;
    const stored = weights.info('wte.weight')?.dtype === 'F32' ? 'fp32' : 'bf16';
    const recipe = recipeNamed(trained?.run.recipe ?? stored);
    const model = new Gpt(modelContext(backendFor(device), recipe), config);
    if (checkpoint && trained) restoreWeights(checkpoint, model.parameters());
    else assignWeights(weights, model.parameters());
    return { model, tokenizer, config, step: checkpoint?.step ?? 0 };
  } finally {
    weights.close();
  }
}
