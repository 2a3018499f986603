// What a run keeps beside its checkpoints:
//
//   config.json     the resolved run, itself a run file: `fp8lm train runs/x/config.json` repeats it
//   env.json        versions and machine
//   metrics.jsonl   one object a step or evaluation, appended as the run goes
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { environment } from '../machine.ts';
import { atomicWrite, type EvalEvent, type RunConfig, type RunEvent, type StepEvent } from './fp8.ts';
import type { Recorder } from './recorder.ts';

export class RunFolder {
  readonly #path: string;
  readonly #config: RunConfig;
  readonly #recorder: Recorder;
  #lines: string[] = [];
  #flushedAt = 0;

  constructor(path: string, config: RunConfig, recorder: Recorder) {
    this.#path = path;
    this.#config = config;
    this.#recorder = recorder;
  }

  on(event: RunEvent): void {
    if (event.type === 'start') this.#begin(event.firstStep, event.backend);
    else if (event.type === 'step') this.#append(stepMetrics(event));
    else if (event.type === 'eval') this.#append({ step: event.step, valLoss: event.valLoss });
    // A checkpoint must not be ahead of the metrics.
    if (event.type === 'saved' || performance.now() - this.#flushedAt > 1000) this.#flush();
  }

  close(): void {
    this.#flush();
  }

  #begin(firstStep: number, backend: string): void {
    const { resume: _, ...config } = this.#config;
    mkdirSync(this.#path, { recursive: true });
    atomicWrite(join(this.#path, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
    atomicWrite(join(this.#path, 'env.json'), `${JSON.stringify({ ...environment(), backend }, null, 2)}\n`);
    const earlier = firstStep > 0 ? earlierMetrics(this.#metrics, firstStep) : [];
    for (const row of earlier) {
      if (isEval(row)) this.#recorder.addEval(row);
      else this.#recorder.addStep(row);
    }
    atomicWrite(this.#metrics, earlier.map((row) => `${JSON.stringify(row)}\n`).join(''));
  }

  #append(row: object): void {
    this.#lines.push(`${JSON.stringify(row)}\n`);
  }

  #flush(): void {
    this.#flushedAt = performance.now();
    if (this.#lines.length === 0) return;
    const text = this.#lines.join('');
    this.#lines = [];
    appendFileSync(this.#metrics, text);
  }

  get #metrics(): string {
    return join(this.#path, 'metrics.jsonl');
  }
}

type Row = Pick<StepEvent, 'step' | 'loss' | 'stepMs' | 'skipped'> | Pick<EvalEvent, 'step' | 'valLoss'>;

const isEval = (row: Row): row is Pick<EvalEvent, 'step' | 'valLoss'> => 'valLoss' in row;

function stepMetrics(event: StepEvent): object {
  const { step, loss, gradNorm, lr, tokens, stepMs, tokensPerSecond, skipped, memoryBytes, phases } = event;
  return { step, loss, gradNorm, lr, tokens, stepMs, tokensPerSecond, skipped, memoryBytes, phases };
}

/** Rows up to a step; those after it belong to a branch that a resume has left. A line that a kill cut short is dropped. */
function earlierMetrics(path: string, lastStep: number): Row[] {
  if (!existsSync(path)) return [];
  const rows: Row[] = [];
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    try {
      const row = JSON.parse(line) as Row;
      if (row.step <= lastStep) rows.push(row);
    } catch {}
  }
  return rows;
}
