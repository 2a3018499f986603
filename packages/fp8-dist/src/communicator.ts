// The main thread's end of a rank's communication: posts operations to the comm worker and sleeps on shared words.
import { once } from 'node:events';
import type { TransferListItem, Worker } from 'node:worker_threads';
import { UserError } from 'fp8-core';
import { DistError, type FailureKind } from './errors.ts';
import { Group } from './group.ts';
import { Lane } from './lane/lane.ts';
import { loadCommAddon } from './math/native.ts';
import { Control, maxWorks, word, workState } from './worker/control.ts';
import type { FromWorker, PostedOp, ToWorker, Wiring, WorkerOptions } from './worker/messages.ts';
import { Recorder } from './worker/recorder.ts';
import { spawnModule } from './worker/spawn.ts';

export interface CommunicatorOptions {
  /** Deadline of a collective; default FP8_TIMEOUT_MS or five minutes. */
  timeoutMs?: number;
  /** Deadline of each group's first collective, which waits for slow starters; default the larger of timeoutMs and ten minutes. */
  firstTimeoutMs?: number;
  /** Silence after which a rank counts as dead; default FP8_DEAD_AFTER_MS or 2000. */
  deadAfterMs?: number;
  /** Where flight records go when the job fails; default FP8_FLIGHT_DIR, else none are written. */
  flightFolder?: string | null;
}

const numberFrom = (name: string): number | undefined => {
  const text = process.env[name];
  if (!text) return undefined;
  const value = Number(text);
  if (!(value > 0))
    throw new UserError(`${name} is ${JSON.stringify(text)}; expected a positive number of milliseconds`);
  return value;
};

/** Connects this rank; internal, see `init` and `runThreads`. */
export async function connect(
  wiring: Wiring,
  addon: string | null,
  options: CommunicatorOptions,
  transferList: TransferListItem[] = [],
): Promise<Communicator> {
  const timeoutMs = options.timeoutMs ?? numberFrom('FP8_TIMEOUT_MS') ?? 300_000;
  const firstTimeoutMs = options.firstTimeoutMs ?? Math.max(timeoutMs, process.env.FP8_TIMEOUT_MS ? 0 : 600_000);
  const control = new Control();
  const recorder = new Recorder();
  const workerOptions: WorkerOptions = {
    wiring,
    control: control.memory,
    recorder: recorder.memory,
    addon,
    deadAfterMs: options.deadAfterMs ?? numberFrom('FP8_DEAD_AFTER_MS') ?? 2000,
    flightFolder: options.flightFolder ?? process.env.FP8_FLIGHT_DIR ?? null,
  };
  const here = import.meta.url.endsWith('.ts') ? './worker/comm-worker.ts' : './worker/comm-worker.js';
  const worker = spawnModule(
    new URL(here, import.meta.url),
    workerOptions as unknown as Record<string, unknown>,
    transferList,
  );
  const [message] = (await once(worker, 'message')) as [FromWorker];
  if ('failed' in message) {
    const { kind, message: text, user } = message.failed;
    throw user ? new UserError(text) : new DistError(kind as FailureKind, text);
  }
  if (!('ready' in message)) throw new Error('internal: the comm worker did not start');
  const { ready } = message;
  const loaded = ready.lane ? loadCommAddon(addon) : null;
  const tell = (m: ToWorker): void => worker.postMessage(m);
  const lane = loaded && ready.lane ? new Lane(loaded, ready.lane, { ...ready, control, recorder, tell }) : null;
  return new Communicator(worker, control, ready, addon !== null, timeoutMs, firstTimeoutMs, lane);
}

export class Communicator {
  readonly rank: number;
  readonly size: number;
  /** Where each rank is, for people. */
  readonly addresses: readonly string[];
  /** All ranks. */
  readonly world: Group;
  /** True when the worker calculates natively and reads tensors of the CPU backend in place. */
  readonly native: boolean;
  readonly timeoutMs: number;
  readonly firstTimeoutMs: number;
  /** Shared memory between ranks of this machine, or null. */
  readonly lane: Lane | null;
  private readonly worker: Worker | null;
  private readonly control: Control;
  private nextSlot = 0;
  private closed = false;
  private readonly onExit = (): void => this.leaveNow();

  constructor(
    worker: Worker | null,
    control: Control,
    ready: { rank: number; size: number; generation: number; addresses: string[] },
    native: boolean,
    timeoutMs: number,
    firstTimeoutMs: number,
    lane: Lane | null = null,
  ) {
    this.worker = worker;
    this.control = control;
    this.rank = ready.rank;
    this.size = ready.size;
    this.addresses = ready.addresses;
    this.native = native;
    this.timeoutMs = timeoutMs;
    this.firstTimeoutMs = firstTimeoutMs;
    this.lane = lane;
    const ranks = Array.from({ length: this.size }, (_, i) => i);
    const channel =
      lane?.join(
        ranks,
        ranks.map(() => 0),
      ) ?? -1;
    this.world = new Group(this, 'world', 0, ranks, this.rank, channel);
    if (!worker) return;
    worker.unref();
    process.on('exit', this.onExit);
    worker.on('error', (error) => control.fail(new DistError('worker', `the comm worker failed: ${error.message}`)));
  }

  /** Bytes of this rank so far, headers included, whether over a socket or through shared memory. */
  traffic(): { sent: number; received: number } {
    const { sent, received } = this.control.traffic();
    const [laneSent, laneReceived] = this.lane?.traffic() ?? [0, 0];
    return { sent: sent + laneSent, received: received + laneReceived };
  }

  /**
   * The longest time without a heartbeat of any rank so far, in milliseconds. Where it comes near FP8_DEAD_AFTER_MS (default 2000),
   * the network or the machines are too busy for it.
   */
  get longestSilenceMs(): number {
    return Atomics.load(this.control.words, word.longestSilence);
  }

  /** Tells the other ranks how far this one is, for their messages. */
  setStep(step: number): void {
    Atomics.store(this.control.words, word.step, step);
    this.control.progressed();
  }

  /** Posts an operation; the slot to sleep on. */
  post(op: Omit<PostedOp, 'id'>): number {
    this.checkOpen(op.code, op.groupName);
    const slot = this.takeSlot();
    Atomics.store(this.control.words, word.works + slot, workState.pending);
    this.control.progressed();
    this.send({ op: { ...op, id: slot } });
    return slot;
  }

  /** @throws DistError if nothing can be posted any more */
  checkOpen(code: string, groupName: string): void {
    if (this.closed) throw new DistError('closed', `${code} on ${groupName}: the communicator is closed`);
    if (!Atomics.load(this.control.words, word.failed)) return;
    const failure = this.control.failure();
    if (failure) throw failure;
  }

  private takeSlot(): number {
    for (let tries = 0; tries < maxWorks; tries++) {
      const slot = this.nextSlot;
      this.nextSlot = (this.nextSlot + 1) % maxWorks;
      if (Atomics.load(this.control.words, word.works + slot) === workState.free) return slot;
    }
    throw new RangeError(`more than ${maxWorks} collectives were started and never waited for`);
  }

  private send(message: ToWorker): void {
    this.worker?.postMessage(message);
  }

  isSlotDone(slot: number): boolean {
    return Atomics.load(this.control.words, word.works + slot) !== workState.pending;
  }

  /** Sleeps until the slot's work is done, and frees the slot. @throws DistError */
  sleep(slot: number, timeoutMs: number): void {
    const { words } = this.control;
    const at = word.works + slot;
    if (Atomics.load(words, at) === workState.pending) {
      Atomics.store(words, word.waitingOn, slot + 1);
      // The worker keeps the deadline; main only guards against a worker that is no more.
      Atomics.wait(words, at, workState.pending, timeoutMs + 5000);
      Atomics.store(words, word.waitingOn, 0);
    }
    const state = Atomics.load(words, at);
    Atomics.store(words, at, workState.free);
    this.control.progressed();
    if (state === workState.done) return;
    throw (
      this.control.failure() ??
      new DistError('worker', `the comm worker did not answer within ${(timeoutMs + 5000) / 1000} s`)
    );
  }

  /** The failure that ended this communicator, or null. */
  get failure(): DistError | null {
    return this.control.failure();
  }

  /**
   * Leaves the job: waits for all ranks, then closes all sockets. After a failure it only closes. Always call it, also after an
   * error, and let the process end by itself.
   */
  async close(): Promise<void> {
    if (this.closed || !this.worker) {
      this.closed = true;
      return;
    }
    const { worker } = this;
    const exited = once(worker, 'exit');
    let failed: unknown = this.failure;
    if (!failed) {
      try {
        this.world.leave().wait();
      } catch (error) {
        failed = error;
      }
    }
    this.closed = true;
    this.lane?.close();
    worker.ref();
    this.send({ stop: failed ? 'now' : 'drain' });
    await exited;
    process.off('exit', this.onExit);
  }

  /** The process ends without `close`: have the worker close its sockets first, or libzmq aborts the process. */
  private leaveNow(): void {
    if (this.closed) return;
    this.closed = true;
    this.lane?.cancel();
    this.send({ stop: 'now' });
    Atomics.wait(this.control.words, word.closed, 0, 2000);
    // The worker's thread is on its way out; a main thread that goes on at once would terminate it half-way.
    Atomics.wait(this.control.words, word.closed, 1, 50);
  }
}
