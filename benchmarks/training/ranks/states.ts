// A rank that builds a model and its optimizer, and tells what states it keeps.
import { ledger, modelContext, recipeNamed } from 'fp8-core';
import { type Communicator, DataParallel, initializeModelParallel } from 'fp8-dist';
import { Gpt, presetNamed } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { backendFor } from 'fp8-train';

export interface StatesJob {
  model: string;
  recipe: string;
  zero: 0 | 1;
}

/** @returns bytes of masters and moments on this rank */
export default function states(comm: Communicator, jobs: StatesJob[]): number[] {
  const mesh = initializeModelParallel(comm);
  return jobs.map(({ model: preset, recipe, zero }) => {
    const before = ledger.live.optimizer;
    const model = new Gpt(modelContext(backendFor('auto'), recipeNamed(recipe)), presetNamed(preset));
    const optimizer = new AdamW(model.parameters(), {}, new DataParallel(model.parameters(), mesh, { zero }));
    const bytes = ledger.live.optimizer - before;
    optimizer.release();
    model.release();
    return bytes;
  });
}
