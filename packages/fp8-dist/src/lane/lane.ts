// The lane: collectives among ranks of one machine, through shared memory and straight from the calling thread. The work is
// done by the addon (native/comm_lane.h); here are the calls, the waiting with its deadline, and the naming of what went wrong.
// The comm worker keeps the beats: it ends a wait here through the shared failure word, and learns here where main sleeps.
import { dtypes } from 'fp8-core';
import { type Descriptor, decodeDescriptor, describe, describePlace, opCodes } from '../engine/descriptor.ts';
import { DistError } from '../errors.ts';
import { slotBytes } from '../link/slots.ts';
import type { CommAddon, LaneRegion } from '../math/native.ts';
import { clock, type Control, maxWorks, word } from '../worker/control.ts';
import type { ToWorker } from '../worker/messages.ts';
import type { Recorder } from '../worker/recorder.ts';
import type { LaneWiring } from '../worker/wiring.ts';

/** Most members of a group, and most groups and pairs of a rank, on a lane; others go through the comm worker. */
const maxMembers = 64;
const maxPlaces = 64;
/** Bytes of a share that travel in one round, and of a collective that travels with its announcement. */
const chunkBytes = Math.min(slotBytes, Number(process.env.FP8_LANE_CHUNK || 256 * 1024));
const eagerBytes = Math.min(64 * 1024, 8 * slotBytes);
const firstSliceMs = 3;
const sliceMs = 20;

const codeNumbers = Object.fromEntries(opCodes.map((code, i) => [code, i])) as Record<string, number>;
const reduceNumbers = { sum: 0, max: 1, min: 2 } as const;

/** A collective as it is posted; memory in `inputs`, `outputs` and `scales` must stay until it is done. */
export interface LaneCall extends Descriptor {
  group: number;
  groupName: string;
  /** 0, or the two ranks' between which it is a send. */
  channel: number;
  members: readonly number[];
  opSeq: number;
  inputs: readonly LaneRegion[];
  outputs: readonly LaneRegion[] | null;
  bounds: readonly number[];
}

/** A posted collective. */
export interface LaneOp {
  /** The channel of the lane that it is on. */
  readonly lane: number;
  readonly call: LaneCall;
  readonly place: number;
  readonly startedAt: number;
}

/** Everything a lane needs of its communicator. */
export interface LaneHost {
  rank: number;
  size: number;
  control: Control;
  recorder: Recorder;
  addresses: readonly string[];
  tell: (message: ToWorker) => void;
}

export class Lane {
  private readonly addon: CommAddon;
  private readonly wiring: LaneWiring;
  private readonly host: LaneHost;
  private readonly numbers = new Float64Array(7);
  private readonly bounds: Float64Array[] = [];
  /** In flight: keeps their memory from being collected. */
  private readonly inFlight = new Set<LaneOp>();
  private nextPlace = 0;
  private open = true;

  constructor(addon: CommAddon, wiring: LaneWiring, host: LaneHost) {
    this.addon = addon;
    this.wiring = wiring;
    this.host = host;
    addon.laneWatch(wiring.id, host.control.words);
  }

  /** The first place in this rank's block that is free for a group. All members must tell each other. */
  get offer(): number {
    return this.nextPlace;
  }

  /**
   * Takes a place for a group. All members get the same answer from the same arguments.
   * @param places of each member: what it offered, or one after it; -1: it has no lane
   * @returns the channel, or -1 if these ranks cannot use the lane together
   */
  join(ranks: readonly number[], places: readonly number[]): number {
    const { connected, id } = this.wiring;
    const together = ranks.every((a) => ranks.every((b) => a === b || connected[a]?.includes(b)));
    const free = places.every((p) => p >= 0 && p < maxPlaces);
    if (!together || !free || ranks.length < 2 || ranks.length > maxMembers) return -1;
    this.nextPlace = places[ranks.indexOf(this.host.rank)] + 1;
    return this.addon.laneJoin(id, [...ranks], [...places], chunkBytes, eagerBytes);
  }

  /** Starts a collective; others see it at once. */
  post(channel: number, call: LaneCall): LaneOp {
    if (this.inFlight.size >= maxWorks)
      throw new RangeError(`more than ${maxWorks} collectives were started and never waited for`);
    const { numbers: n } = this;
    n[0] = call.opSeq;
    n[1] = codeNumbers[call.code];
    n[2] = dtypes[call.dtype].code;
    n[3] = reduceNumbers[call.reduce];
    n[4] = (call.mean ? 1 : 0) | (call.steps ? 2 : 0) | (call.range === 'keep' ? 4 : 0);
    n[5] = call.root;
    n[6] = call.shape;
    const bounds = (this.bounds[call.bounds.length] ??= new Float64Array(call.bounds.length));
    for (let i = 0; i < bounds.length; i++) bounds[i] = call.bounds[i];
    const { control, recorder } = this.host;
    control.progressed();
    const scales = call.scales.length ? call.scales : null;
    this.addon.lanePost(this.wiring.id, channel, n, call.inputs, call.outputs, bounds, scales);
    const place = recorder.begin(call);
    const op = { lane: channel, call, place, startedAt: performance.now() };
    this.inFlight.add(op);
    return op;
  }

  /** True once `wait` would not sleep. */
  isDone(op: LaneOp): boolean {
    return !this.open || this.addon.laneDone(this.wiring.id, op.lane, op.call.opSeq);
  }

  /** Works and sleeps until the collective is done. @throws DistError */
  wait(op: LaneOp, timeoutMs: number): void {
    const { addon, wiring } = this;
    const { control, recorder } = this.host;
    if (!this.open)
      throw control.failure() ?? new DistError('closed', `${this.nameOf(op)}: the communicator is closed`);
    const first = addon.laneWait(wiring.id, op.lane, op.call.opSeq, firstSliceMs);
    if (first !== 0) this.waitLong(op, first, timeoutMs);
    this.inFlight.delete(op);
    recorder.update(op.place, 'done', op.call.opSeq, op.call.count * dtypes[op.call.dtype].bytes);
    control.progressed();
  }

  private waitLong(op: LaneOp, first: 1 | 2 | 3, timeoutMs: number): void {
    const { control } = this.host;
    const { call } = op;
    let state: 0 | 1 | 2 | 3 = first;
    const name = this.nameOf(op);
    const ms = () => performance.now() - op.startedAt;
    const since = clock() - Math.round(ms());
    try {
      while (state === 1) {
        const absent = this.absent(op);
        control.setSleep({
          group: call.group,
          channel: call.channel,
          opSeq: call.opSeq,
          members: call.members,
          absent,
          name,
          since,
        });
        if (ms() > timeoutMs)
          this.fail(op, { expired: { name, ms: ms(), members: [...call.members], absent } }, `${name}: its time is up`);
        state = this.addon.laneWait(this.wiring.id, op.lane, call.opSeq, sliceMs);
      }
      if (state === 3) this.explain(op);
      if (state === 2) this.fail(op, null, name);
    } finally {
      control.setSleep(null);
    }
  }

  private absent(op: LaneOp): number[] {
    return this.addon.laneAbsent(this.wiring.id, op.lane, op.call.opSeq).map((i) => op.call.members[i]);
  }

  /** "allReduce(sum, f32, 8 elements) #412 on world (rank 1 of 4)" */
  private nameOf({ call }: LaneOp): string {
    const { rank, size } = this.host;
    return `${describe(call)} ${describePlace(call)} (rank ${rank} of ${size})`;
  }

  /** A member called something else, or wrote what no member may write. */
  private explain(op: LaneOp): never {
    const { rank, addresses } = this.host;
    const { call } = op;
    const { member, text, head } = this.addon.laneTrouble(this.wiring.id, op.lane);
    const from = call.members[member];
    if (!head) {
      const message = `rank ${from} at ${addresses[from]}: ${text}`;
      return this.fail(op, { failed: { kind: 'protocol', message, ranks: [from] } }, message);
    }
    // The scales stay behind: only their number is in the head, as in a descriptor of none.
    const bytes = Buffer.from(head);
    const numScales = bytes.readUInt32LE(20);
    bytes.writeUInt32LE(0, 20);
    const mine = describe(call);
    const other = decodeDescriptor(bytes).descriptor;
    const theirs = describe({ ...other, scales: new Float32Array(Math.min(numScales, 65536)) });
    const hint = mine === theirs ? ' (their shapes or shares differ)' : '';
    const message =
      `collective ${describePlace(call)}: rank ${rank} (this one) called ${mine}, rank ${from} called ${theirs}${hint}. ` +
      'All ranks of a group must call the same collectives in the same order';
    return this.fail(op, { failed: { kind: 'mismatch', message, ranks: [rank, from] } }, message);
  }

  /** Ends all operations; the comm worker tells the others, and the first failure of this rank is thrown. */
  private fail(op: LaneOp, report: ToWorker | null, text: string): never {
    const { control, recorder, tell } = this.host;
    for (const other of this.inFlight) recorder.update(other.place, 'failed', other.call.opSeq, 0);
    if (report) tell(report);
    if (!control.failure()) Atomics.wait(control.words, word.failed, 0, 5000);
    this.cancel();
    this.inFlight.delete(op);
    throw control.failure() ?? new DistError('worker', `${text}; the comm worker did not answer`);
  }

  /** Forgets all operations: from now on no memory of theirs is touched. */
  cancel(): void {
    if (this.open) this.addon.laneCancel(this.wiring.id);
    this.inFlight.clear();
  }

  traffic(): [sent: number, received: number] {
    return this.open ? this.addon.laneTraffic(this.wiring.id) : [0, 0];
  }

  close(): void {
    if (!this.open) return;
    this.cancel();
    this.open = false;
    this.addon.laneClose(this.wiring.id);
  }
}
