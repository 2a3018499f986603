// A group: the ranks that talk, always an argument, never a global. Collectives return a Work; `wait()` makes them blocking.
// A group of one rank does nothing: no socket, no copy.
import type { DType } from 'fp8-core';
import type { Communicator } from './communicator.ts';
import { fold, maxSegments } from './engine/descriptor.ts';
import { dtypeOf, type Operand, sizeOf, type Staged, stage } from './operand.ts';
import { type Call, type PairChannel, type Plan, postToLane, postToWorker, type ReduceOptions, total } from './post.ts';
import { pack, unpack } from './rendezvous/messages.ts';
import { doneWork, type Work } from './work.ts';

export type { ReduceOptions } from './post.ts';

const asList = (x: Operand | readonly Operand[]): readonly Operand[] => (Array.isArray(x) ? x : [x as Operand]);

/** Element offsets of `parts` nearly equal shares of `size` elements: sizes differ by at most one block of 64. */
export function evenShares(size: number, parts: number): number[] {
  const blocks = Math.ceil(size / 64);
  return Array.from({ length: parts + 1 }, (_, i) => Math.min(size, 64 * Math.floor((blocks * i) / parts)));
}

export class Group {
  readonly name: string;
  /** This rank's place in the group. */
  readonly rank: number;
  /** Global ranks of the members, in group order. */
  readonly ranks: readonly number[];
  private readonly comm: Communicator | null;
  private readonly id: number;
  /** Its channel on the lane, or -1: through the comm worker. */
  private readonly laneChannel: number;
  private readonly nextSeq = new Map<number, number>();
  /** Between which ranks something was sent, or `openLanes` was called; by id. */
  private readonly pairs = new Map<number, PairChannel>();
  private splits = 0;
  private hasMet = false;
  private readonly onMet = (): void => {
    this.hasMet = true;
  };

  constructor(
    comm: Communicator | null,
    name: string,
    id: number,
    ranks: readonly number[],
    globalRank: number,
    laneChannel = -1,
  ) {
    this.comm = comm;
    this.name = name;
    this.id = id;
    this.ranks = ranks;
    this.rank = ranks.indexOf(globalRank);
    this.laneChannel = laneChannel;
  }

  /** A group of this process alone. */
  static single(name = 'single'): Group {
    return new Group(null, name, 0, [0], 0);
  }

  get size(): number {
    return this.ranks.length;
  }

  /**
   * Reduces in place: every rank ends with the same bits. Several tensors of one dtype cost one exchange.
   * @param x f32, bf16, f16, e4m3, e5m2 or i32; every rank the same shapes. Scaled dtypes take part with their own scales and
   *   get a shared one
   */
  allReduce(x: Operand | readonly Operand[], options: ReduceOptions = {}): Work {
    const input = asList(x);
    return this.start({ code: 'allReduce', input, bounds: evenShares(total(input), this.size), reduce: options });
  }

  /**
   * Reduces, and leaves each rank its share: `out` gets elements [rank, rank + 1) * out.size of the result.
   * @param x one tensor of group size * out.size elements, unchanged
   */
  reduceScatter(out: Operand, x: Operand, options: ReduceOptions = {}): Work {
    const size = sizeOf(out);
    this.check(
      'reduceScatter',
      sizeOf(x) === size * this.size,
      `${sizeOf(x)} elements for ${this.size} shares of ${size}`,
    );
    this.sameDType('reduceScatter', [x, out]);
    if (this.size === 1) return this.copyInto(out, x);
    const bounds = this.ranks.map((_, i) => i * size);
    return this.start({
      code: 'reduceScatter',
      input: [x],
      out: [out],
      bounds: [...bounds, this.size * size],
      reduce: options,
      written: () => false,
    });
  }

  /**
   * Reduces whole tensors to their owners, in place; on other ranks the tensors keep what they had.
   * @param owners group rank of each tensor's owner; must ascend, so order the tensors by owner
   */
  reduceToOwners(tensors: readonly Operand[], owners: readonly number[], options: ReduceOptions = {}): Work {
    return this.start({
      code: 'reduceScatter',
      input: tensors,
      bounds: this.ownerBounds('reduceToOwners', tensors, owners),
      reduce: options,
      written: (i) => owners[i] === this.rank,
    });
  }

  /** Copies whole tensors from their owners to all, in place, with their scales; the counterpart of `reduceToOwners`. */
  gatherFromOwners(tensors: readonly Operand[], owners: readonly number[]): Work {
    return this.start({
      code: 'allGather',
      input: tensors,
      bounds: this.ownerBounds('gatherFromOwners', tensors, owners),
      written: (i) => owners[i] !== this.rank,
    });
  }

  private ownerBounds(what: string, tensors: readonly Operand[], owners: readonly number[]): number[] {
    this.check(what, tensors.length === owners.length, `${tensors.length} tensors, ${owners.length} owners`);
    const bounds: number[] = Array(this.size + 1).fill(0);
    let last = 0;
    owners.forEach((owner, i) => {
      this.check(
        what,
        Number.isInteger(owner) && owner >= last && owner < this.size,
        `owners must ascend from 0 to ${this.size - 1}; owner ${i} is ${owner} after ${last}`,
      );
      last = owner;
      bounds[owner + 1] += sizeOf(tensors[i]);
    });
    for (let i = 0; i < this.size; i++) bounds[i + 1] += bounds[i];
    return bounds;
  }

  /** Concatenates: elements [i, i + 1) * x.size of `out` come from rank i. `x` is unchanged; scaled dtypes get a shared scale. */
  allGather(out: Operand, x: Operand): Work {
    const size = sizeOf(x);
    this.check(
      'allGather',
      sizeOf(out) === size * this.size,
      `${this.size} parts of ${size} elements into ${sizeOf(out)}`,
    );
    this.sameDType('allGather', [x, out]);
    if (this.size === 1) return this.copyInto(out, x);
    const bounds = [...this.ranks.map((_, i) => i * size), this.size * size];
    return this.start({ code: 'allGather', input: [x], out: [out], bounds, written: () => false });
  }

  /** Copies from the group rank `root` to all, in place. */
  broadcast(x: Operand | readonly Operand[], root = 0): Work {
    const input = asList(x);
    this.check(
      'broadcast',
      Number.isInteger(root) && root >= 0 && root < this.size,
      `root ${root} is not in 0 to ${this.size - 1}`,
    );
    const n = total(input);
    const bounds = Array.from({ length: this.size + 1 }, (_, i) => (i <= root ? 0 : n));
    return this.start({ code: 'broadcast', input, bounds, root, written: () => this.rank !== root });
  }

  /** Part i of `x` goes to rank i; part i of `out` comes from rank i. Equal parts; scaled dtypes get a shared scale. */
  allToAll(out: Operand, x: Operand): Work {
    const size = sizeOf(x);
    this.check(
      'allToAll',
      sizeOf(out) === size && size % this.size === 0,
      `${size} elements into ${sizeOf(out)}, ${this.size} equal parts`,
    );
    this.sameDType('allToAll', [x, out]);
    if (this.size === 1) return this.copyInto(out, x);
    const bounds = Array.from({ length: this.size + 1 }, (_, i) => (i * size) / this.size);
    return this.start({ code: 'allToAll', input: [x], out: [out], bounds, outBounds: bounds, written: () => false });
  }

  /** Sends to group rank `to`, which must call `recv` with the same dtype and size. Sends from one rank to another keep order. */
  send(x: Operand, to: number): Work {
    return this.pair('send', x, this.rank, to);
  }

  recv(x: Operand, from: number): Work {
    return this.pair('recv', x, from, this.rank);
  }

  private pair(what: 'send' | 'recv', x: Operand, from: number, to: number): Work {
    const other = what === 'send' ? to : from;
    this.check(
      what,
      Number.isInteger(other) && other >= 0 && other < this.size && other !== this.rank,
      `rank ${other} in a group of ${this.size}, this is rank ${this.rank}`,
    );
    const n = sizeOf(x);
    const channel = this.pairOf(from, to);
    const sending = what === 'send';
    if (channel.lane >= 0)
      return this.start({ code: 'send', input: [x], bounds: [0, n, n], channel, written: () => !sending });
    return this.start({
      code: 'send',
      input: sending ? [x] : [],
      out: sending ? [] : [x],
      bounds: sending ? [0, 0, n] : [0, 0, 0],
      outBounds: sending ? [0, 0, 0] : [0, n, n],
      channel,
      written: () => false,
    });
  }

  private pairOf(from: number, to: number): PairChannel {
    const id = 1 + from * this.size + to;
    let pair = this.pairs.get(id);
    if (!pair) this.pairs.set(id, (pair = { id, members: [this.ranks[from], this.ranks[to]], lane: -1 }));
    return pair;
  }

  /**
   * Puts sends between some ranks on the lane, where the two share a machine; all other sends go through the comm worker. All ranks
   * of the group must call it, before anything is sent between these.
   * @param pairs group ranks: who sends, who receives; the same on all ranks
   */
  openLanes(pairs: readonly (readonly [from: number, to: number])[]): void {
    if (this.size === 1) return;
    const lane = this.comm?.lane ?? null;
    const next = this.gatherObjects(lane?.offer ?? -1);
    const placeOf = (rank: number): number => (next[rank] < 0 ? -1 : next[rank]++);
    for (const [from, to] of pairs) {
      const pair = this.pairOf(from, to);
      this.check('openLanes', !this.nextSeq.has(pair.id), `rank ${from} has sent to rank ${to} before`);
      const places = [placeOf(from), placeOf(to)];
      if (lane && (from === this.rank || to === this.rank)) pair.lane = lane.join(pair.members, places);
    }
  }

  /** Done when all ranks have called it. */
  barrier(): Work {
    return this.start({ code: 'barrier', input: [], bounds: Array(this.size + 1).fill(0) });
  }

  /** The last collective of a communicator; `Communicator.close` calls it. */
  leave(): Work {
    const plan: Plan = { code: 'close', input: [], bounds: Array(this.size + 1).fill(0) };
    // On the lane first, where a rank that calls something else sees it at once. The farewell itself is the comm worker's, which
    // must not mistake what follows it for a death.
    if (this.laneChannel >= 0) this.start(plan).wait();
    return this.start(plan, true);
  }

  /**
   * One plain value of every rank (numbers, strings, arrays, maps; no typed arrays), as msgpack.
   * @returns the values in group order, the same on all ranks
   */
  gatherObjects<T>(value: T): T[] {
    if (this.size === 1) return [value];
    const bytes = pack(value);
    const lengths = new Int32Array(this.size);
    this.allGather(lengths, new Int32Array([bytes.length])).wait();
    const bounds = [0];
    for (const n of lengths) bounds.push(bounds[bounds.length - 1] + n);
    const all = new Uint8Array(bounds[this.size]);
    all.set(bytes, bounds[this.rank]);
    this.start({ code: 'allGather', input: [{ dtype: 'u8', data: all }], bounds, shape: bounds }).wait();
    return this.ranks.map((_, i) => unpack(Buffer.from(all.subarray(bounds[i], bounds[i + 1]))) as T);
  }

  /**
   * Divides the group: ranks that give the same color form a new one, ordered by `key`, then by rank. All ranks must call it.
   * @returns this rank's new group; null where the color is null
   */
  split(color: number | null, key = this.rank, name?: string): Group | null {
    const n = this.splits++;
    if (this.size === 1)
      return color === null ? null : new Group(null, name ?? this.name, 0, this.ranks, this.ranks[0]);
    const lane = this.comm?.lane ?? null;
    const mine: [number | null, number, number, number] = [color, key, this.ranks[this.rank], lane?.offer ?? -1];
    const all = this.gatherObjects(mine);
    if (color === null) return null;
    const members = all.filter(([c]) => c === color).sort((a, b) => a[1] - b[1] || a[2] - b[2]);
    const ranks = members.map(([, , rank]) => rank);
    const id = fold([this.id, n, color, ...ranks]) || 1;
    const channel =
      lane?.join(
        ranks,
        members.map(([, , , place]) => place),
      ) ?? -1;
    return new Group(this.comm, name ?? `${this.name}.${n}/${color}`, id, ranks, this.ranks[this.rank], channel);
  }

  // --- plumbing ----------------------------------------------------------------------------------------------------------------

  private check(what: string, ok: boolean, text: string): void {
    if (!ok) throw new RangeError(`${what} on ${this.name}: ${text}`);
  }

  private sameDType(what: string, list: readonly Operand[]): DType {
    const dtype = list.length ? dtypeOf(list[0]) : 'u8';
    for (const x of list) {
      if (dtypeOf(x) !== dtype)
        throw new TypeError(`${what} on ${this.name}: dtypes ${dtype} and ${dtypeOf(x)} in one call`);
    }
    return dtype;
  }

  /** A group of one: out = x, unless they are the same. */
  private copyInto(out: Operand, x: Operand): Work {
    const from = stage(x, false);
    const to = stage(out, false);
    const bytes = (s: Staged) => new Uint8Array((s.region as { sab: SharedArrayBuffer }).sab);
    bytes(to).set(bytes(from));
    to.finish(from.scale, true);
    from.finish(from.scale, false);
    return doneWork(undefined);
  }

  private start(plan: Plan, byWorker = false): Work {
    const { code, input, channel } = plan;
    const out = plan.out ?? null;
    const dtype = this.sameDType(code, [...input, ...(out ?? [])]);
    const { op = 'sum' } = plan.reduce ?? {};
    if (plan.reduce) {
      if (dtype === 'u8' || dtype === 'u16') throw new TypeError(`${code} on ${this.name}: ${dtype} cannot be reduced`);
      if (dtype === 'i32' && op === 'mean')
        throw new TypeError(`${code} on ${this.name}: the mean of i32 is not defined`);
    }
    this.check(code, input.length <= maxSegments, `${input.length} tensors; at most ${maxSegments} in one call`);
    if (!this.comm || this.size === 1) return doneWork(undefined);
    const id = channel?.id ?? 0;
    const opSeq = (this.nextSeq.get(id) ?? 0) + 1;
    const call: Call = {
      comm: this.comm,
      group: this.id,
      groupName: this.name,
      channel: id,
      members: channel?.members ?? this.ranks,
      opSeq,
      dtype,
      shape: fold([...(code === 'send' ? [] : input.map(sizeOf)), ...(plan.shape ?? [])]),
      timeoutMs: this.hasMet ? this.comm.timeoutMs : this.comm.firstTimeoutMs,
      onMet: this.onMet,
    };
    const lane = byWorker ? -1 : (channel?.lane ?? this.laneChannel);
    const work = lane >= 0 ? postToLane(plan, call, lane) : postToWorker(plan, call);
    this.nextSeq.set(id, opSeq);
    return work;
  }
}
