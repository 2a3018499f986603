// What the main thread and its comm worker share: words to sleep on, the text of a failure, the flight recorder. The main
// thread can be blocked for minutes, so everything the worker has to say must fit here.
import { DistError, type FailureKind } from '../errors.ts';

export const maxWorks = 4096;

/** Word numbers. */
export const word = {
  failed: 0,
  /** Counts what the main thread did: every post and every wait; what beats carry as progress. */
  progress: 1,
  /** 0: main computes; else 1 + slot of the work it sleeps on. */
  waitingOn: 2,
  /** The training step, if the program tells it. */
  step: 3,
  closed: 4,
  /** Milliseconds (performance.timeOrigin based, low 31 bits) of main's last progress. */
  progressAt: 5,
  /** Milliseconds of the longest silence of any rank so far: how near to a false alarm this job came. */
  longestSilence: 6,
  /** Two 64-bit counters at words 8 to 11: bytes sent and received, payloads in shared memory included. */
  sent: 8,
  received: 10,
  /** Grows by two with every change of the text that says where main sleeps; odd while it changes. */
  sleepText: 12,
  works: 64,
} as const;

export const workState = { free: 0, pending: 1, done: 2, failed: 3 } as const;

const textBytes = 16 * 1024;
const sleepBytes = 8 * 1024;

/** A collective that a main thread has been waiting in for some time. */
export interface Sleep {
  group: number;
  channel: number;
  opSeq: number;
  /** Global ranks. */
  members: readonly number[];
  /** Those that have not entered it. */
  absent: readonly number[];
  /** "allReduce(sum, f32, 8 elements) #412 on world (rank 1 of 4)" */
  name: string;
  /** Since when, as `clock` counts. */
  since: number;
}

export interface ControlMemory {
  words: SharedArrayBuffer;
  text: SharedArrayBuffer;
  sleep: SharedArrayBuffer;
}

export class Control {
  readonly memory: ControlMemory;
  readonly words: Int32Array;
  private readonly counters: BigInt64Array;
  private readonly text: Uint8Array;
  private readonly sleep: Uint8Array;

  constructor(
    memory: ControlMemory = {
      words: new SharedArrayBuffer(4 * (word.works + maxWorks)),
      text: new SharedArrayBuffer(4 + textBytes),
      sleep: new SharedArrayBuffer(sleepBytes),
    },
  ) {
    this.memory = memory;
    this.words = new Int32Array(memory.words);
    this.counters = new BigInt64Array(memory.words, 4 * word.sent, 2);
    this.text = new Uint8Array(memory.text);
    this.sleep = new Uint8Array(memory.sleep);
  }

  /** Worker: marks a work done and wakes the main thread if it sleeps on it. */
  finish(slot: number): void {
    Atomics.store(this.words, word.works + slot, workState.done);
    Atomics.notify(this.words, word.works + slot);
  }

  /** Worker: the communicator has failed; wakes whoever sleeps. */
  fail(error: DistError): void {
    if (Atomics.load(this.words, word.failed)) return;
    const json = Buffer.from(
      JSON.stringify({ kind: error.kind, message: error.message.slice(0, 8000), ranks: error.ranks.slice(0, 64) }),
    );
    const length = Math.min(json.length, textBytes);
    this.text.set(json.subarray(0, length), 4);
    new DataView(this.text.buffer).setInt32(0, length);
    Atomics.store(this.words, word.failed, 1);
    Atomics.notify(this.words, word.failed);
    for (let slot = 0; slot < maxWorks; slot++) {
      const at = word.works + slot;
      if (Atomics.compareExchange(this.words, at, workState.pending, workState.failed) === workState.pending)
        Atomics.notify(this.words, at);
    }
  }

  /** The failure, or null. */
  failure(): DistError | null {
    if (!Atomics.load(this.words, word.failed)) return null;
    const length = new DataView(this.text.buffer).getInt32(0);
    const { kind, message, ranks } = JSON.parse(Buffer.from(this.text.slice(4, 4 + length)).toString()) as {
      kind: FailureKind;
      message: string;
      ranks: number[];
    };
    return new DistError(kind, message, ranks);
  }

  /** Worker: what went over the links so far. */
  setTraffic(sent: number, received: number): void {
    Atomics.store(this.counters, 0, BigInt(sent));
    Atomics.store(this.counters, 1, BigInt(received));
  }

  traffic(): { sent: number; received: number } {
    return { sent: Number(Atomics.load(this.counters, 0)), received: Number(Atomics.load(this.counters, 1)) };
  }

  /** Main: where it sleeps, outside of the worker's operations; null: no more. */
  setSleep(sleep: Sleep | null): void {
    let json = Buffer.from(sleep ? JSON.stringify(sleep) : '');
    if (json.length > sleepBytes) json = Buffer.from(JSON.stringify({ ...sleep, members: [], absent: [] }));
    Atomics.add(this.words, word.sleepText, 1);
    this.sleep.fill(0);
    this.sleep.set(json.subarray(0, sleepBytes));
    Atomics.add(this.words, word.sleepText, 1);
  }

  /** Worker: where main sleeps, outside of the worker's operations, or null. */
  getSleep(): Sleep | null {
    const before = Atomics.load(this.words, word.sleepText);
    if (before === 0 || before % 2 !== 0 || this.sleep[0] === 0) return null;
    const end = this.sleep.indexOf(0);
    const json = Buffer.from(this.sleep.slice(0, end < 0 ? undefined : end)).toString();
    return Atomics.load(this.words, word.sleepText) === before ? (JSON.parse(json) as Sleep) : null;
  }

  /** Main: something was done just now. */
  progressed(): void {
    Atomics.add(this.words, word.progress, 1);
    Atomics.store(this.words, word.progressAt, clock());
  }
}

/** Milliseconds that main and worker agree on, in 31 bits. */
export const clock = (): number => Math.floor(performance.timeOrigin + performance.now()) & 0x7fffffff;
