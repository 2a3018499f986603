/** What a report shows. Plain data: the page is made from it and nothing else. */
export interface ReportData {
  title: string;
  /** One line under the title. */
  subtitle?: string;
  /** In the order of the page; figures are compared with the first. */
  runs: ReportRun[];
  /** Text written by a trained model. */
  samples?: ReportSample[];
  /** Machine, versions, command: name and value. */
  environment?: Record<string, string | number>;
  tables?: ReportTable[];
  /** Shown in the footer; default now. */
  date?: Date;
}

export type Point = readonly [step: number, value: number];

export interface ReportRun {
  name: string;
  /** `#rgb` or `#rrggbb`; default from a palette that holds in both themes. */
  color?: string;
  /** Mean loss in nats of each step. */
  train: readonly Point[];
  /** Held-out loss in nats. */
  val?: readonly Point[];
  tokensPerSecond: number;
  /** Bytes by category. */
  memory: { weights: number; gradients: number; optimizer: number; activationsPeak: number; totalPeak: number };
  params?: number;
  /** One line about the run, e.g. the recipe in words. */
  note?: string;
  /** FP8 telemetry: series of one title share a chart across runs, e.g. `share of saturated gradients`. */
  telemetry?: readonly ReportSeries[];
}

export interface ReportSeries {
  title: string;
  points: readonly Point[];
  /** Logarithmic axis. */
  log?: boolean;
}

export interface ReportSample {
  /** E.g. the run's name. */
  label?: string;
  prompt: string;
  text: string;
}

export interface ReportTable {
  title: string;
  columns: readonly string[];
  rows: readonly (readonly (string | number)[])[];
}
