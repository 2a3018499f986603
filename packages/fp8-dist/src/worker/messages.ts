import type { MessagePort } from 'node:worker_threads';
import type { OpRequest } from '../engine/request.ts';
import type { Environment } from '../rendezvous/environment.ts';
import type { FailureKind } from '../errors.ts';
import type { ControlMemory } from './control.ts';
import type { LaneWiring } from './wiring.ts';

/** Bytes of a tensor as the worker finds them: a handle of the native backend, or shared memory. */
export type Region = number | { sab: SharedArrayBuffer; offset: number; bytes: number };

/** An operation as the main thread posts it. */
export interface PostedOp extends Omit<OpRequest, 'segments' | 'out' | 'scales'> {
  segments: Region[];
  out: Region[] | null;
  scales: SharedArrayBuffer | null;
}

export type ToWorker =
  | { op: PostedOp }
  | { stop: 'drain' | 'now' }
  /** What went wrong on the lane, seen by the main thread. */
  | { failed: { kind: FailureKind; message: string; ranks: number[] } }
  | { expired: { name: string; ms: number; members: number[]; absent: number[] } };

/** What connects the ranks. */
export type Wiring =
  | { kind: 'zeromq'; environment: Environment; jobKey: string | null; rendezvousMs: number }
  | { kind: 'ports'; rank: number; size: number; ports: (MessagePort | null)[] };

export interface WorkerOptions {
  wiring: Wiring;
  control: ControlMemory;
  recorder: SharedArrayBuffer;
  /** Path of the native addon, or null: arithmetic in TypeScript. */
  addon: string | null;
  deadAfterMs: number;
  flightFolder: string | null;
}

export type FromWorker =
  | { ready: { rank: number; size: number; generation: number; addresses: string[]; lane: LaneWiring | null } }
  | { failed: { kind: string; message: string; user: boolean } }
  | { closed: true };
