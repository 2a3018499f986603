// Checkpoints of a run: which one it goes on from, and how it saves, whatever the layout of its ranks.
import { UserError } from 'fp8-core';
import type { GptConfig, Tokenizer } from 'fp8-models';
import type { AdamW } from 'fp8-optim';
import type { Sampler, SamplerState } from './data/index.ts';
import { type Checkpoint, latestCheckpoint, readCheckpoint, writeCheckpoint } from './files/index.ts';
import { GatheredState } from './gathered_state.ts';
import type { Ranks } from './ranks.ts';
import type { RunConfig } from './run_config.ts';
import type { RunEvent } from './run_events.ts';
import { restoreTraining, stateOf } from './state.ts';
import type { LanguageModel, Trainer } from './trainer.ts';

/** What a checkpoint tells of its run besides tensors. */
interface TrainerJson {
  step: number;
  sampler: SamplerState;
  run: RunConfig;
}

/** What a checkpoint is taken of. */
export interface RunState {
  model: LanguageModel;
  optimizer: AdamW;
  trainer: Trainer;
  sampler: Sampler;
}

/**
 * Opens the checkpoint to go on from, the same on all ranks; null if there is none yet.
 * @throws UserError if the newest and all before it are damaged, or ranks see different folders
 */
export function openResumed(out: string, ranks: Ranks, on: (event: RunEvent) => void): Checkpoint | null {
  const note = (text: string): void => on({ type: 'note', text });
  const checkpoint = latestCheckpoint(out)
    ? readCheckpoint(out, { onDamaged: (text) => note(`${text}; trying the checkpoint before`) })
    : null;
  const step = checkpoint?.step ?? -1;
  const [newest, oldest] = ranks.largest([step, -step]);
  if (newest !== -oldest)
    throw new UserError(
      `--out ${out}: this rank finds step ${step} there, others step ${newest}; all ranks need the same folder`,
    );
  if (!checkpoint) note(`no checkpoint in ${out} yet; starting from the beginning`);
  return checkpoint;
}

/** Brings a run to where a checkpoint left it, to the bit. @throws UserError naming what does not fit */
export function restoreRun(checkpoint: Checkpoint, { model, optimizer, trainer, sampler }: RunState): void {
  const saved = checkpoint.json.trainer as TrainerJson | undefined;
  if (!saved) throw new UserError(`checkpoint ${checkpoint.path}: trainer.json is missing; it cannot be resumed`);
  const { recipe } = model.context;
  if (saved.run.recipe !== recipe.name) {
    throw new UserError(
      `checkpoint ${checkpoint.path} was trained with recipe ${saved.run.recipe}, not ${recipe.name}`,
    );
  }
  restoreTraining(checkpoint, model, optimizer);
  trainer.steps = saved.step;
  sampler.restore(saved.sampler);
}

/** Saves a run into its folder; every rank calls `save` at the same steps, the first writes. */
export class RunSaver {
  private readonly ranks: Ranks;
  private readonly run: RunConfig;
  private readonly model: GptConfig;
  private readonly tokenizer: Tokenizer | null;
  private savedAt = -1;

  constructor(ranks: Ranks, run: RunConfig, model: GptConfig, tokenizer: Tokenizer | null) {
    this.ranks = ranks;
    this.run = run;
    this.model = model;
    this.tokenizer = tokenizer;
  }

  /** @throws UserError when the disk refuses; earlier checkpoints stand */
  save({ model, optimizer, trainer, sampler }: RunState, on: (event: RunEvent) => void): void {
    const { out, keep } = this.run;
    const { steps } = trainer;
    if (out === null || this.savedAt === steps) return;
    this.savedAt = steps;
    const state = new GatheredState(this.ranks.mesh.world, stateOf(model, optimizer));
    if (!this.ranks.isFirst) return state.send();
    const json: Record<string, unknown> = {
      config: this.model,
      trainer: { step: steps, sampler: sampler.state(), run: this.run } satisfies TrainerJson,
      ...(this.tokenizer ? { tokenizer: this.tokenizer.toJSON(), tokenizer_config: this.tokenizer.toConfig() } : {}),
    };
    const { path, numBytes } = writeCheckpoint(out, steps, state.files(), json, { keep });
    on({ type: 'saved', step: steps, path, numBytes });
  }
}
