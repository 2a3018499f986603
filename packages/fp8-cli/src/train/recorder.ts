import type { EvalEvent, Point, RunEvent, RunSummary, SavedEvent, StartEvent, StepEvent } from './fp8.ts';

/** What a run has shown so far, for tables and reports. */
export class Recorder {
  start: StartEvent | undefined;
  summary: RunSummary | undefined;
  saved: SavedEvent | undefined;
  readonly train: Point[] = [];
  readonly val: Point[] = [];
  /** Milliseconds of each step of this process. */
  readonly stepMs: number[] = [];
  skipped = 0;

  on(event: RunEvent): void {
    switch (event.type) {
      case 'start':
        this.start = event;
        break;
      case 'step':
        this.addStep(event);
        break;
      case 'eval':
        this.addEval(event);
        break;
      case 'saved':
        this.saved = event;
        break;
      case 'summary':
        this.summary = event.summary;
        break;
      case 'note':
        break;
      default:
        event satisfies never;
    }
  }

  /** A step of an earlier process, read from metrics.jsonl, or of this one. */
  addStep(event: Pick<StepEvent, 'step' | 'loss' | 'stepMs' | 'skipped'>): void {
    this.train.push([event.step, event.loss]);
    this.stepMs.push(event.stepMs);
    if (event.skipped) this.skipped++;
  }

  addEval({ step, valLoss }: Pick<EvalEvent, 'step' | 'valLoss'>): void {
    this.val.push([step, valLoss]);
  }
}
