// The flight recorder: the last operations of a rank in a ring of shared memory, written out as JSON lines when a job fails.
// One record an operation, updated in place as it goes on; a few dozen nanoseconds each.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { dtypes } from 'fp8-core';
import { opCodes } from '../engine/descriptor.ts';
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

export class Recorder {
  readonly memory: SharedArrayBuffer;
  private readonly records: Float64Array;
  private readonly places = new WeakMap<Op, number>();
  private next = 0;

  constructor(memory = new SharedArrayBuffer(8 * capacity * fields.length)) {
    this.memory = memory;
    this.records = new Float64Array(memory);
  }

  record(event: OpEvent, op: Op): void {
    const now = performance.timeOrigin + performance.now();
    let place = this.places.get(op);
    if (place === undefined) {
      place = this.next++ % capacity;
      this.places.set(op, place);
      const d = op.descriptor;
      const { group, channel, opSeq } = op.request;
      const values = [0, opCodes.indexOf(d.code), dtypes[d.dtype].code, group, channel, opSeq, d.count, 0, now, 0];
      this.records.set(values, place * fields.length);
    }
    const at = place * fields.length;
    if (this.records[at + 5] !== op.request.opSeq) return;
    this.records[at] = states.indexOf(event);
    this.records[at + 7] = op.moved;
    if (event === 'done' || event === 'failed') this.records[at + 9] = now;
  }

  /** The last operations, oldest first. */
  entries(): Record<string, string | number>[] {
    const first = Math.max(0, this.next - capacity);
    const list: Record<string, string | number>[] = [];
    for (let i = first; i < this.next; i++) {
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
