// A run as a person sees it, and as a program does.
import pc from 'picocolors';
import { facts, note, print, printJson } from '../output.ts';
import {
  formatBytes,
  formatCount,
  formatLoss,
  ProgressLine,
  type RunConfig,
  type RunEvent,
  recipes,
  type StartEvent,
  type StepEvent,
} from './fp8.ts';
import type { Recorder } from './recorder.ts';

/** JSON lines on stdout, notes on stderr. @param extra fields put in front of each object */
export function jsonView(extra: Record<string, unknown> = {}): (event: RunEvent) => void {
  return (event) => {
    if (event.type === 'step') printJson({ ...extra, ...stepLine(event) });
    else if (event.type === 'eval') printJson({ ...extra, step: event.step, valLoss: event.valLoss });
    else if (event.type === 'summary') printJson({ ...extra, summary: event.summary });
    else if (event.type === 'note') note(event.text);
    else if (event.type === 'saved') note(`saved ${event.path} (${formatBytes(event.numBytes)})`);
  };
}

const stepLine = ({ step, loss, gradNorm, lr, tokens, stepMs, tokensPerSecond }: StepEvent): object => ({
  step,
  loss,
  gradNorm,
  lr,
  tokens,
  stepMs,
  tokensPerSecond,
});

/** Header on stdout, progress line on stderr. */
export class LiveView {
  readonly #name: string;
  readonly #config: RunConfig;
  readonly #label: string | undefined;
  #line: ProgressLine | undefined;

  /** @param label put in front of the progress line, where several runs follow each other */
  constructor(name: string, config: RunConfig, label?: string) {
    this.#name = name;
    this.#config = config;
    this.#label = label;
  }

  on(event: RunEvent): void {
    switch (event.type) {
      case 'start':
        this.#start(event);
        break;
      case 'step':
        this.#line?.update(event);
        if (event.skipped) this.#say(`step ${event.step} skipped: its gradient is not finite`);
        break;
      case 'eval':
        this.#say(`step ${event.step}: held-out loss ${formatLoss(event.valLoss)}`);
        break;
      case 'saved':
        this.#say(`step ${event.step}: saved ${event.path} (${formatBytes(event.numBytes)})`);
        break;
      case 'note':
        this.#say(event.text);
        break;
      case 'summary':
        break;
      default:
        event satisfies never;
    }
  }

  /** Leaves the progress line; call it after an error too. */
  end(): void {
    this.#line?.done();
  }

  #say(text: string): void {
    if (this.#line) this.#line.note(text);
    else note(text);
  }

  #start(event: StartEvent): void {
    const { batch, gradAccum, out } = this.#config;
    const from = event.firstStep > 0 ? `, going on from step ${event.firstStep}` : '';
    const text =
      event.valTokens > 0
        ? `; ${formatCount(event.trainTokens)} tokens to learn from, ${formatCount(event.valTokens)} held out`
        : '';
    print(heading(`${this.#name}, ${formatCount(event.params)} parameters, recipe ${event.recipe}`));
    print(
      facts([
        ['recipe', recipes[event.recipe].summary],
        ['backend', event.backend],
        ...(event.ranks === null ? [] : ([['ranks', event.ranks]] as const)),
        ['data', `${event.data}${text}; vocabulary ${event.vocabSize}`],
        [
          'run',
          `${event.steps} steps of ${formatCount(event.tokensPerStep)} tokens (batch ${batch}${gradAccum > 1 ? ` x ${gradAccum}` : ''})${from}`,
        ],
        ...(out === null ? [] : ([['output', out]] as const)),
      ]),
    );
    this.#line = new ProgressLine({ total: event.steps, ...(this.#label === undefined ? {} : { label: this.#label }) });
  }
}

export const heading = (text: string): string => pc.bold(text);

/** The end of a run: losses, speed, bytes, paths. */
export function summaryText({ summary, saved, skipped }: Recorder, out: string | null): string {
  if (!summary) return '';
  const { memory, comm } = summary;
  return facts([
    ['training loss', `${formatLoss(summary.lossFirst)} -> ${formatLoss(summary.lossLast)} nats a token`],
    ...(summary.valLoss === null ? [] : ([['held-out loss', `${formatLoss(summary.valLoss)} nats a token`]] as const)),
    ['speed', `${formatCount(summary.tokensPerSecond)} tokens/s (median)`],
    ...(skipped > 0 ? ([['skipped', `${skipped} steps`]] as const) : []),
    ...(comm.bytesSent > 0 ? ([['traffic', `${formatBytes(comm.bytesSent)} sent by a rank`]] as const) : []),
    ['weights', formatBytes(memory.weights)],
    ['gradients', formatBytes(memory.gradients)],
    ['optimizer', formatBytes(memory.optimizer)],
    ['activations', `${formatBytes(memory.activationsPeak)} (peak)`],
    ['all tensors', `${formatBytes(memory.totalPeak)} (peak)`],
    ...(saved ? ([['checkpoint', saved.path]] as const) : []),
    ...(out === null ? [] : ([['report', `${out}/report.html`]] as const)),
  ]);
}
