// How many steps fit into some minutes. All runs of a comparison need the same number, so it is settled before the first
// one, by timing some steps of each recipe, and once more while the first one runs: a machine that others use too may have
// become much slower.
import { measureStep } from '../bench/step.ts';
import { note } from '../output.ts';
import { modelConfigOf, type RunConfig } from './fp8.ts';

/** Evaluations of a run whose --eval-every was not given. */
export const evaluations = 10;

/** Timing each recipe for this long, or for two steps. */
const trialMs = 3000;
/** The first run is begun anew when it will take this much longer than planned, which it knows after that share of its time. */
const [tooSlow, sureAfter] = [1.4, 0.25];

/** The first run was far slower than the trial; a smaller number of steps is planned now. */
export class TooSlow extends Error {}

export class Plan {
  steps: number;
  /** Milliseconds for one run. */
  #share: number;
  readonly #config: RunConfig;
  #restarts = 2;

  /** @param minutes for all runs together, the trial included */
  constructor(config: RunConfig, names: readonly string[], minutes: number) {
    this.#config = config;
    const start = performance.now();
    const perStep = names.map((recipe) => trial(config, recipe)).reduce((sum, ms) => sum + ms, 0) / names.length;
    this.#share = (minutes * 60_000 - (performance.now() - start)) / names.length;
    this.steps = this.#stepsAt(perStep);
    note(
      `a step takes ${perStep.toFixed(1)} ms here: ${this.steps} steps of each recipe fit into ${minutes} minutes together`,
    );
  }

  /** Called after each step of the first run, with the time since it began. @throws TooSlow with fewer steps planned, if that run would take far too long */
  check(step: number, elapsedMs: number): void {
    if (this.#restarts === 0 || step < 4 || elapsedMs < sureAfter * this.#share) return;
    if ((elapsedMs / step) * this.steps < tooSlow * this.#share) return;
    this.#restarts--;
    this.#share *= 1 - sureAfter / 2;
    // The time of evaluations is in the elapsed time already.
    this.steps = Math.max(2, spread(Math.min(this.steps - 1, this.#share / (elapsedMs / step))));
    throw new TooSlow(`the machine has become slower; beginning anew with ${this.steps} steps of each recipe`);
  }

  /** An evaluation's batch is a forward pass: about a third of a micro-batch. */
  #stepsAt(stepMs: number): number {
    const evaluating = ((evaluations + 1) * this.#config.evalBatches) / (3 * this.#config.gradAccum);
    const possible = this.#share / stepMs;
    return Math.max(2, spread(possible > 3 * evaluating ? possible - evaluating : possible * 0.7));
  }
}

/** A multiple of the number of evaluations, so that they are evenly spread. */
const spread = (steps: number): number =>
  steps < evaluations ? Math.floor(steps) : Math.floor(steps / evaluations) * evaluations;

/** Milliseconds of a step, on average: a median would not see that others use the machine in turns. */
function trial(config: RunConfig, recipe: string): number {
  const model = modelConfigOf(config);
  const { device, batch, gradAccum, recompute } = config;
  const seq = config.seq ?? model.maxSeqLen;
  const measure = (steps: number, warmup: number): number =>
    measureStep({ model, preset: '', recipe, device, batch, seq, gradAccum, recompute, steps, warmup }).meanMs;
  const first = measure(1, 1);
  return first * 4 > trialMs ? first : measure(Math.ceil(trialMs / first), 2);
}
