// The flight recorder: the last operations of a rank in a ring of shared memory, written out as JSON lines when a job fails.
// One record an operation, updated in place as it goes on; a few dozen nanoseconds each.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type DType, dtypes } from 'fp8-core';
import { type OpCode, opCodes } from '../engine/descriptor.ts';
import type { OpEvent } from '../engine/engine.ts';
import type { Op } from '../engine/op.ts';

const capacity = 20_480;
const fields = [
  'state',
  'code',
  'dtype',
  'group',
  'channel',
  'opSeq',
  'count',
  'moved',
  'postedMs',
  'endedMs',
] as const;
const states: OpEvent[] = ['posted', 'entered', 'done', 'failed'];
const dtypeNames = Object.keys(dtypes);
const codeNumbers = Object.fromEntries(opCodes.map((code, i) => [code, i])) as Record<OpCode, number>;

/** What a record says of an operation. */
export interface Recorded {
  code: OpCode;
  dtype: DType;
  group: number;
  channel: number;
  opSeq: number;
  count: number;
}

export class Recorder {
  readonly memory: SharedArrayBuffer;
  private readonly records: Float64Array;
  /** Operations so far; main and worker both count here. */
  private readonly next: Int32Array;
  private readonly places = new WeakMap<Op, number>();

  constructor(memory = new SharedArrayBuffer(8 * capacity * fields.length + 8)) {
    this.memory = memory;
    this.records = new Float64Array(memory, 0, capacity * fields.length);
    this.next = new Int32Array(memory, 8 * capacity * fields.length, 1);
  }

  /** A new record. @returns its place, for `update` */
  begin(r: Recorded): number {
    const place = (Atomics.add(this.next, 0, 1) >>> 0) % capacity;
    const now = performance.timeOrigin + performance.now();
    const { records } = this;
    const at = place * fields.length;
    records[at] = 0;
    records[at + 1] = codeNumbers[r.code];
    records[at + 2] = dtypes[r.dtype].code;
    records[at + 3] = r.group;
    records[at + 4] = r.channel;
    records[at + 5] = r.opSeq;
    records[at + 6] = r.count;
    records[at + 7] = 0;
    records[at + 8] = now;
    records[at + 9] = 0;
    return place;
  }

  /** What became of an operation, unless its record has been overwritten. */
  update(place: number, event: OpEvent, opSeq: number, moved: number): void {
    const at = place * fields.length;
    if (this.records[at + 5] !== opSeq) return;
    this.records[at] = states.indexOf(event);
    this.records[at + 7] = moved;
    if (event === 'done' || event === 'failed') this.records[at + 9] = performance.timeOrigin + performance.now();
  }

  record(event: OpEvent, op: Op): void {
    let place = this.places.get(op);
    if (place === undefined) {
      place = this.begin({ ...op.descriptor, ...op.request });
      this.places.set(op, place);
    }
    this.update(place, event, op.request.opSeq, op.moved);
  }

  /** True if the operation is on record. */
  has(group: number, channel: number, opSeq: number): boolean {
    for (let at = 0; at < this.records.length; at += fields.length) {
      const { records: r } = this;
      if (r[at + 5] === opSeq && r[at + 3] === group && r[at + 4] === channel && r[at + 8] > 0) return true;
    }
    return false;
  }

  /** The last operations, oldest first. */
  entries(): Record<string, string | number>[] {
    const next = Atomics.load(this.next, 0) >>> 0;
    const first = Math.max(0, next - capacity);
    const list: Record<string, string | number>[] = [];
    for (let i = first; i < next; i++) {
      const at = (i % capacity) * fields.length;
      const entry: Record<string, string | number> = {};
      for (const [k, name] of fields.entries()) entry[name] = this.records[at + k];
      entry.state = states[entry.state as number];
      entry.code = opCodes[entry.code as number];
      entry.dtype = dtypeNames[entry.dtype as number];
      list.push(entry);
    }
    return list;
  }

  /**
   * Writes `flight-rank<k>.jsonl` into the folder: first why, then the operations, newest last.
   * @returns the file's path
   */
  dump(folder: string, rank: number, why: Record<string, unknown>): string {
    mkdirSync(folder, { recursive: true });
    const path = join(folder, `flight-rank${rank}.jsonl`);
    const lines = [{ rank, pid: process.pid, time: new Date().toISOString(), ...why }, ...this.entries()];
    writeFileSync(path, `${lines.map((line) => JSON.stringify(line)).join('\n')}\n`);
    return path;
  }
}
