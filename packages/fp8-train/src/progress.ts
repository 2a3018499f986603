/**
 * The progress of a run on stderr: one line that is rewritten where a person watches a terminal, a plain line now and
 * then where the output goes to a file. stdout stays free for results.
 */
import { formatBytes, formatCount, formatDuration, formatLoss, formatSmall } from './format.ts';

/** What a step has to tell; parts left out are not shown. */
export interface ProgressStep {
  /** Steps done. */
  step: number;
  loss?: number;
  tokensPerSecond?: number;
  memoryBytes?: number;
  lr?: number;
  gradNorm?: number;
}

/** The part of a stream that is needed: `process.stderr` is one. */
export interface ProgressStream {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

export interface ProgressOptions {
  /** Steps of the whole run. */
  total: number;
  /** Put in front, e.g. the recipe. */
  label?: string;
  stream?: ProgressStream;
  /** Without a terminal: steps between lines (default total / 20, rounded) and the longest silence in seconds (default 30). */
  everySteps?: number;
  everySeconds?: number;
  env?: Record<string, string | undefined>;
  /** Milliseconds; for tests. */
  now?: () => number;
}

const REDRAW_MS = 80;

/** Parts of the line: text, and rank by which parts go when the terminal is narrow (the highest first). */
interface Part {
  text: string;
  rank: number;
  style?: string;
}

export class ProgressLine {
  readonly #options: ProgressOptions;
  readonly #stream: ProgressStream;
  readonly #isLive: boolean;
  readonly #hasColor: boolean;
  readonly #now: () => number;
  /** The first step seen and when: later steps give the pace (the first one also pays for set-up). */
  #origin: { step: number; time: number } | undefined;
  #drawnAt = -Infinity;
  #printedStep = -Infinity;
  #line = '';

  constructor(options: ProgressOptions) {
    const env = options.env ?? process.env;
    this.#options = options;
    this.#stream = options.stream ?? process.stderr;
    this.#isLive = this.#stream.isTTY === true && env.TERM !== 'dumb';
    this.#hasColor = this.#isLive && !env.NO_COLOR; // set and not empty: https://no-color.org
    this.#now = options.now ?? (() => performance.now());
  }

  /** Shows a step, at most some times a second. */
  update(step: ProgressStep): void {
    const now = this.#now();
    this.#origin ??= { step: step.step, time: now };
    const isLast = step.step >= this.#options.total;
    if (this.#isLive) {
      const parts = fit(this.#parts(step, now), (this.#stream.columns ?? 80) - 1);
      this.#line = parts
        .map(({ text, style }) => (style !== undefined && this.#hasColor ? `\x1b[${style}m${text}\x1b[0m` : text))
        .join(this.#hasColor ? ' \x1b[2m|\x1b[0m ' : ' | ');
      if (!isLast && now - this.#drawnAt < REDRAW_MS) return;
      this.#stream.write(`\r${this.#line}\x1b[K`);
      this.#drawnAt = now;
    } else {
      const everySteps = this.#options.everySteps ?? Math.max(1, Math.round(this.#options.total / 20));
      const everyMs = (this.#options.everySeconds ?? 30) * 1000;
      const isDue = step.step - this.#printedStep >= everySteps || now - this.#drawnAt >= everyMs;
      if (!isDue && !isLast) return;
      this.#stream.write(
        `${this.#parts(step, now)
          .map(({ text }) => text)
          .join(' | ')}\n`,
      );
      this.#printedStep = step.step;
      this.#drawnAt = now;
    }
  }

  /** Prints a line of its own above the progress line. */
  note(text: string): void {
    if (!this.#isLive) this.#stream.write(`${text}\n`);
    else this.#stream.write(`\r\x1b[K${text}\n${this.#line}${this.#line === '' ? '' : '\x1b[K'}`);
  }

  /** Ends the line, the last state of it drawn; call it also after an error, so that the message stands on its own line. */
  done(): void {
    if (this.#isLive && this.#line !== '') this.#stream.write(`\r${this.#line}\x1b[K\n`);
    this.#line = '';
  }

  #parts(step: ProgressStep, now: number): Part[] {
    const { total, label } = this.#options;
    const percent = Math.floor((100 * step.step) / Math.max(1, total));
    const parts: Part[] = [];
    if (label !== undefined) parts.push({ text: label, rank: 4, style: '1' });
    parts.push({ text: `step ${step.step}/${total} ${percent}%`, rank: 0, style: '36' });
    if (step.loss !== undefined) parts.push({ text: `loss ${formatLoss(step.loss)}`, rank: 1, style: '1' });
    if (step.tokensPerSecond !== undefined) parts.push({ text: `${formatCount(step.tokensPerSecond)} tok/s`, rank: 3 });
    if (step.memoryBytes !== undefined) parts.push({ text: `mem ${formatBytes(step.memoryBytes)}`, rank: 5 });
    if (step.lr !== undefined) parts.push({ text: `lr ${formatSmall(step.lr)}`, rank: 6 });
    if (step.gradNorm !== undefined) parts.push({ text: `gnorm ${formatSmall(step.gradNorm)}`, rank: 7 });
    parts.push({ text: `ETA ${formatDuration(this.#secondsLeft(step.step, now))}`, rank: 2 });
    return parts;
  }

  #secondsLeft(step: number, now: number): number {
    if (step >= this.#options.total) return 0;
    const { step: first, time } = this.#origin!;
    return step > first ? ((now - time) / 1000 / (step - first)) * (this.#options.total - step) : NaN;
  }
}

/** Leaves out the least important parts until the line fits. */
function fit(parts: Part[], columns: number): Part[] {
  let kept = parts;
  const width = () => kept.reduce((sum, { text }) => sum + text.length, 3 * (kept.length - 1));
  while (kept.length > 1 && width() > columns) {
    const worst = kept.reduce((a, b) => (b.rank > a.rank ? b : a));
    kept = kept.filter((part) => part !== worst);
  }
  return kept.length === 1 ? [{ ...kept[0], text: kept[0].text.slice(0, Math.max(0, columns)) }] : kept;
}
