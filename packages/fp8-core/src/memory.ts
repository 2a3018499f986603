/** Where bytes are: what a person asks first when a run does not fit. */
export const categories = ['weights', 'gradients', 'optimizer', 'activations', 'communication'] as const;
export type Category = (typeof categories)[number];

/** Bytes of tensors by category, live and peak. One ledger serves the process: tensors report to it as they come and go. */
export class Ledger {
  readonly live: Record<Category, number> = {
    weights: 0,
    gradients: 0,
    optimizer: 0,
    activations: 0,
    communication: 0,
  };
  readonly peak: Record<Category, number> = {
    weights: 0,
    gradients: 0,
    optimizer: 0,
    activations: 0,
    communication: 0,
  };
  totalPeak = 0;

  add(category: Category, bytes: number): void {
    this.live[category] += bytes;
    if (bytes <= 0) return;
    if (this.live[category] > this.peak[category]) this.peak[category] = this.live[category];
    const total = this.total();
    if (total > this.totalPeak) this.totalPeak = total;
  }

  total(): number {
    const l = this.live;
    return l.weights + l.gradients + l.optimizer + l.activations + l.communication;
  }

  /** Starts new peaks from what is live now. */
  resetPeak(): void {
    Object.assign(this.peak, this.live);
    this.totalPeak = this.total();
  }
}

export const ledger = new Ledger();

let current: Category = 'activations';

export const currentCategory = (): Category => current;

/** Tensors made inside `fn` are booked under `category`; activations is what nothing else claims. */
export function inCategory<T>(category: Category, fn: () => T): T {
  const before = current;
  current = category;
  try {
    return fn();
  } finally {
    current = before;
  }
}
