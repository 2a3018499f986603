import { modelContext, recipeNamed, UserError } from 'fp8-core';
import { checkConfig, Gpt, type GptConfig, type Tokenizer, tokenizerFromJson } from 'fp8-models';
import { backendFor, type Device } from './backend.ts';
import { readCheckpoint } from './files/index.ts';
import type { RunConfig } from './run_config.ts';
import { restoreWeights } from './state.ts';

export interface LoadedModel {
  model: Gpt;
  tokenizer: Tokenizer;
  config: GptConfig;
  /** Step of the checkpoint. */
  step: number;
}

/**
 * Loads a trained model for generation, in the recipe it was trained with.
 * @param dir a run's folder (its newest checkpoint) or one checkpoint's
 * @throws UserError naming the file and what is wrong with it
 */
export function loadModel(dir: string, device: Device = 'auto'): LoadedModel {
  const checkpoint = readCheckpoint(dir);
  try {
    const { config, trainer, tokenizer } = checkpoint.json as {
      config?: GptConfig;
      trainer?: { run: RunConfig };
      tokenizer?: Parameters<typeof tokenizerFromJson>[0];
    };
    if (!config || !trainer)
      throw new UserError(`checkpoint ${checkpoint.path}: config.json or trainer.json is missing`);
    if (!tokenizer)
      throw new UserError(`checkpoint ${checkpoint.path} has no tokenizer (was it trained on random tokens?)`);
    const model = new Gpt(modelContext(backendFor(device), recipeNamed(trainer.run.recipe)), checkConfig(config));
    restoreWeights(checkpoint, model.parameters());
    return { model, tokenizer: tokenizerFromJson(tokenizer), config, step: checkpoint.step };
  } finally {
    checkpoint.close();
  }
}
