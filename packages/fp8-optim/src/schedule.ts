/** Learning rate by step, counted from 0. */
export type Schedule = (step: number) => number;

export interface ScheduleOptions {
  /** Peak learning rate. */
  lr: number;
  totalSteps: number;
  /** Steps of linear warm-up; step 0 already moves. */
  warmupSteps?: number;
  /** Learning rate at the end, as a share of the peak. */
  minRatio?: number;
}

/** Linear warm-up, then a half cosine down to `minRatio` of the peak at the last step (FP8-LM: 10 %). */
export function cosine({ lr, totalSteps, warmupSteps = 0, minRatio = 0.1 }: ScheduleOptions): Schedule {
  return (step) => {
    if (step < warmupSteps) return (lr * (step + 1)) / warmupSteps;
    const progress = Math.min(1, (step - warmupSteps) / Math.max(1, totalSteps - 1 - warmupSteps));
    return lr * (minRatio + (1 - minRatio) * 0.5 * (1 + Math.cos(Math.PI * progress)));
  };
}

/** Warm-up, stable, decay: constant until the last `decaySteps`, then linear to `minRatio` (Hu et al. 2024, arXiv:2404.06395). */
export function wsd({
  lr,
  totalSteps,
  warmupSteps = 0,
  minRatio = 0.1,
  decaySteps,
}: ScheduleOptions & { decaySteps?: number }): Schedule {
  const decay = decaySteps ?? Math.ceil(totalSteps * 0.2);
  return (step) => {
    if (step < warmupSteps) return (lr * (step + 1)) / warmupSteps;
    const left = totalSteps - 1 - step;
    if (left >= decay) return lr;
    return lr * (minRatio + (1 - minRatio) * Math.max(0, left / decay));
  };
}

/** The peak at every step. */
export const constant =
  ({ lr, warmupSteps = 0 }: ScheduleOptions): Schedule =>
  (step) =>
    step < warmupSteps ? (lr * (step + 1)) / warmupSteps : lr;
