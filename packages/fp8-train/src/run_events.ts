import type { Phases } from './trainer.ts';

/** Bytes by category, of the largest rank. */
export interface MemorySummary {
  weights: number;
  gradients: number;
  optimizer: number;
  activationsPeak: number;
  totalPeak: number;
}

export interface StartEvent {
  type: 'start';
  recipe: string;
  /** One line: instruction set, threads. */
  backend: string;
  /** The layout of ranks, one line; null for one rank. */
  ranks: string | null;
  params: number;
  steps: number;
  /** First step to come; above 0 after a resume. */
  firstStep: number;
  tokensPerStep: number;
  vocabSize: number;
  trainTokens: number;
  valTokens: number;
  /** Where the text comes from, one line. */
  data: string;
}

export interface StepEvent {
  type: 'step';
  step: number;
  loss: number;
  gradNorm: number;
  lr: number;
  tokens: number;
  stepMs: number;
  tokensPerSecond: number;
  skipped: boolean;
  memoryBytes: number;
  phases: Phases;
}

export interface EvalEvent {
  type: 'eval';
  step: number;
  valLoss: number;
}

export interface SavedEvent {
  type: 'saved';
  step: number;
  path: string;
  numBytes: number;
}

export interface NoteEvent {
  type: 'note';
  text: string;
}

/** The contract of `--json`: what scripts outside the project read. */
export interface RunSummary {
  recipe: string;
  params: number;
  tokensPerSecond: number;
  lossFirst: number;
  lossLast: number;
  valLoss: number | null;
  memory: MemorySummary;
  comm: { bytesSent: number; bytesReceived: number };
}

export interface SummaryEvent {
  type: 'summary';
  summary: RunSummary;
}

export type RunEvent = StartEvent | StepEvent | EvalEvent | SavedEvent | NoteEvent | SummaryEvent;
