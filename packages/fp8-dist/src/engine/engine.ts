// The engine of one rank: holds the links to all peers and the operations in progress, and turns frames into progress. Purely
// event driven: whoever runs it (the comm worker, a test) calls `post`, `tick` and the transport's callbacks, and never waits.
//
// The first failure ends it: every operation in progress and every later one fails with the same error, and the peers are told.
import { DistError, type FailureKind, ProtocolError } from '../errors.ts';
import { decodeFrame, type Frame, type FrameKind } from '../link/frame.ts';
import { Link, type LinkHost, slotView } from '../link/link.ts';
import { type Slot, SlotPool } from '../link/slots.ts';
import type { CommMath } from '../math/math.ts';
import type { Transport } from '../transport/transport.ts';
import { agrees, decodeDescriptor, describe, describePlace } from './descriptor.ts';
import { Op, type OpHost } from './op.ts';
import type { OpRequest } from './request.ts';

/** What happens to operations, for the flight recorder. */
export type OpEvent = 'posted' | 'entered' | 'done' | 'failed';

export interface EngineOptions {
  transport: Transport;
  generation: number;
  math: CommMath;
  pool?: SlotPool;
  /** This process's mapping of a peer's arena, or null. */
  arenaOf?: (rank: number) => Uint8Array | null;
  /** True when the peer has mapped ours. */
  isMappedBy?: (rank: number) => boolean;
  onDone: (request: OpRequest) => void;
  onFailed: (error: DistError) => void;
  record?: (event: OpEvent, op: Op) => void;
  /** Says what a rank is doing, as far as its beats tell: "computing; step 12, 4.1 s since its last call". */
  statusOf?: (rank: number) => string;
  /** Beats, aborts and farewells: what is not part of any operation. */
  onControl?: (frame: Frame) => void;
  now?: () => number;
  /** What the rank is doing apart from this engine's operations, or null. */
  otherwiseIn?: () => string | null;
}

interface Early {
  frame: Frame;
  from: number;
}

const poolSlots = 64;
const maxEarly = 8192;
const ringSize = 256;

export class Engine implements LinkHost, OpHost {
  readonly rank: number;
  readonly size: number;
  readonly generation: number;
  readonly transport: Transport;
  readonly pool: SlotPool;
  readonly math: CommMath;
  failure: DistError | null = null;
  /** Messages that were no valid frame of this job, by reason. */
  readonly dropped = { malformed: 0, foreign: 0 };
  readonly links: (Link | null)[];
  private readonly options: EngineOptions;
  private readonly ops = new Map<string, Op>();
  private readonly early = new Map<string, Early[]>();
  private numEarly = 0;
  /** Number of the newest operation of each group and channel. */
  private readonly lastPosted = new Map<string, number>();
  /** Descriptions of operations that ended, newest last, so that a late disagreement can still be named. */
  private readonly ended: string[] = [];
  private readonly now: () => number;
  private pumping = false;

  constructor(options: EngineOptions) {
    this.options = options;
    this.transport = options.transport;
    this.rank = options.transport.rank;
    this.size = options.transport.size;
    this.generation = options.generation;
    this.math = options.math;
    this.now = options.now ?? (() => performance.now());
    this.pool = options.pool ?? new SlotPool(poolSlots);
    this.pool.onFree = () => {
      if (this.ops.size > 0) this.schedulePump();
    };
    this.links = Array.from({ length: this.size }, (_, peer) =>
      peer === this.rank
        ? null
        : new Link(this, peer, options.arenaOf?.(peer) ?? null, options.isMappedBy?.(peer) ?? false),
    );
    this.transport.onMessage = (parts, from) => this.message(parts, from);
    this.transport.onLost = (rank, why) => this.lost(rank, why);
    this.transport.start();
  }

  /** Operations in progress, oldest first. */
  get active(): readonly Op[] {
    return [...this.ops.values()];
  }

  /** Bytes sent and received, payloads that stay in shared memory included. */
  traffic(): { sent: number; received: number } {
    let { sent, received } = this.transport.bytes;
    for (const link of this.links) {
      sent += link?.shared.sent ?? 0;
      received += link?.shared.received ?? 0;
    }
    return { sent, received };
  }

  /** True once this rank has entered the operation, also when it has ended since. */
  hasPosted(group: number, channel: number, opSeq: number): boolean {
    return opSeq <= (this.lastPosted.get(`${group}/${channel}`) ?? 0);
  }

  /** True when every frame sent was acknowledged. */
  get isIdle(): boolean {
    return this.links.every((link) => !link || link.idle);
  }

  post(request: OpRequest): void {
    if (this.failure) return;
    const me = request.members.indexOf(this.rank);
    const op = new Op(request, me, this, this.now());
    const key = keyOf(request.group, request.channel, request.opSeq);
    this.ops.set(key, op);
    this.lastPosted.set(`${request.group}/${request.channel}`, request.opSeq);
    this.options.record?.('posted', op);
    this.guard(this.rank, () => op.start());
    const waiting = this.early.get(key);
    if (waiting) {
      this.early.delete(key);
      this.numEarly -= waiting.length;
      for (const { frame, from } of waiting) this.toOp(op, frame, from, () => {});
    }
    this.settle(op);
    this.pump();
    this.flush();
  }

  // --- frames in ---------------------------------------------------------------------------------------------------------------

  /** Takes a message of any transport; `from` is -1 where it cannot tell. */
  message(parts: readonly Uint8Array[], from: number): void {
    if (this.failure) return;
    let frame: Frame;
    try {
      frame = decodeFrame(parts);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.dropped.malformed++;
      // Damaged on the way: the sender is known only where the transport knows it; else the repeat timer repairs it.
      const link = from >= 0 ? this.links[from] : null;
      link?.reportGap(this.now());
      return;
    }
    const link = frame.generation === this.generation && frame.to === this.rank ? this.links[frame.from] : null;
    if (!link || (from >= 0 && from !== frame.from)) {
      this.dropped.foreign++;
      return;
    }
    if (frame.kind === 'beat' || frame.kind === 'abort' || frame.kind === 'bye') return this.options.onControl?.(frame);
    link.receive(frame, this.now());
    if (this.ops.size > 0 || link.owes) this.schedulePump();
  }

  /** Sends answers, acknowledgements and whatever became possible. */
  private afterMessages(): void {
    this.pump();
    this.flush();
  }

  deliver(frame: Frame, from: number, release: () => void): void {
    const key = keyOf(frame.group, frame.channel, frame.opSeq);
    const op = this.ops.get(key);
    if (op) {
      this.toOp(op, frame, from, release);
      return this.settle(op);
    }
    if (frame.kind !== 'announce') {
      return this.fail('protocol', `rank ${from} sent data of an operation that this rank is not in (${key})`, [from]);
    }
    if (++this.numEarly > maxEarly) {
      return this.fail('protocol', `rank ${from} is more than ${maxEarly} operations ahead of this rank`, [from]);
    }
    const list = this.early.get(key);
    if (list) list.push({ frame, from });
    else this.early.set(key, [{ frame, from }]);
  }

  private toOp(op: Op, frame: Frame, from: number, release: () => void): void {
    const member = op.request.members.indexOf(from);
    if (member < 0) return this.fail('protocol', `rank ${from} is no member of group ${op.request.groupName}`, [from]);
    this.guard(from, () => {
      if (frame.kind === 'announce') return this.compare(op, frame, from, member);
      let bytes = frame.payload;
      if (frame.carrier === 'slot') {
        const arena = this.links[from]?.peerArena;
        bytes = arena ? slotView(arena, frame.slot, frame.payloadBytes) : null;
        if (!bytes) throw new ProtocolError(`named payload slot ${frame.slot}, which it does not have`);
      }
      op.chunk(frame, member, bytes as Uint8Array, release);
    });
  }

  private compare(op: Op, frame: Frame, from: number, member: number): void {
    const { descriptor, data } = decodeDescriptor(frame.payload as Uint8Array);
    if (agrees(op.descriptor, descriptor)) return op.announcement(member, descriptor, data);
    const { groupName, opSeq } = op.request;
    const mine = describe(op.descriptor);
    const theirs = describe(descriptor);
    const hint = mine === theirs ? ' (their shapes or shares differ)' : '';
    this.fail(
      'mismatch',
      `collective #${opSeq} on ${groupName}: rank ${this.rank} (this one) called ${mine}, rank ${from} called ${theirs}${hint}. ` +
        'All ranks of a group must call the same collectives in the same order',
      [this.rank, from],
    );
  }

  /** Runs `body`; a ProtocolError in it ends the job with the member's name. */
  private guard(from: number, body: () => void): void {
    try {
      body();
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        return this.fail('worker', `internal: ${(error as Error).stack ?? error}`, [this.rank]);
      }
      this.fail('protocol', `rank ${from} at ${this.transport.address(from)}: ${error.message}`, [from]);
    }
  }

  // --- frames out --------------------------------------------------------------------------------------------------------------

  announce(op: Op, to: number, payload: Buffer): void {
    const link = this.links[op.request.members[to]] as Link;
    link.sendInline('announce', op.request, payload, this.now());
  }

  takeSlot(readers: number): Slot | null {
    return this.pool.take(readers);
  }

  takePartSlot(): Slot | null {
    return this.pool.available > this.pool.size / 2 ? this.pool.take(1) : null;
  }

  sendSlot(op: Op, kind: FrameKind, to: number, chunk: number, slot: Slot, bytes: number): void {
    const { group, channel, opSeq } = op.request;
    const link = this.links[op.request.members[to]] as Link;
    link.sendSlot(kind, { group, channel, opSeq }, chunk, slot, bytes, this.now());
  }

  private schedulePump(): void {
    if (this.pumping) return;
    this.pumping = true;
    setImmediate(() => {
      this.pumping = false;
      if (!this.failure) this.afterMessages();
    });
  }

  /** A few chunks of every operation; goes on in the next turn, so that what arrives meanwhile is taken in between. */
  private pump(): void {
    let more = false;
    for (const op of this.ops.values()) {
      let rounds = 0;
      this.guard(this.rank, () => {
        while (rounds < 4 && op.pump()) rounds++;
      });
      if (rounds === 4) more = true;
      this.settle(op);
    }
    if (more) this.schedulePump();
  }

  private flush(): void {
    const now = this.now();
    for (const link of this.links) link?.flush(now);
  }

  /** For the way out: repeats what is due, and with `ack` acknowledges everything now. */
  flushAll(ack = false): void {
    const now = this.now();
    for (const link of this.links) link?.flush(ack ? now + 100 : now);
  }

  private settle(op: Op): void {
    if (!op.done || this.failure) return;
    const { group, channel, opSeq } = op.request;
    if (!this.ops.delete(keyOf(group, channel, opSeq))) return;
    this.ended.push(`#${opSeq} ${describe(op.descriptor)}`);
    if (this.ended.length > ringSize) this.ended.shift();
    this.options.record?.('done', op);
    this.options.onDone(op.request);
  }

  // --- failing -----------------------------------------------------------------------------------------------------------------

  /** To be called every 50 ms or so: repeats, late acknowledgements, deadlines. */
  tick(): void {
    if (this.failure) return;
    this.flush();
    const now = this.now();
    for (const op of this.ops.values()) {
      if (now - op.startedAt > op.request.timeoutMs) return this.expired(op, now);
    }
  }

  private expired(op: Op, now: number): void {
    const awaited = op.awaited().filter(({ rank }) => rank !== this.rank);
    this.expire(this.opName(op), now - op.startedAt, op.progress(), awaited);
  }

  /** Fails because an operation's time is up. @param awaited whom it waits for */
  expire(name: string, ms: number, progress: string, awaited: readonly { rank: number; entered: boolean }[]): void {
    const who = awaited.map(({ rank, entered }) => {
      const state = entered ? 'has entered, its data is missing' : 'has not entered';
      const status = this.options.statusOf?.(rank);
      return `rank ${rank} at ${this.transport.address(rank)} (${state}${status ? `; ${status}` : ''})`;
    });
    this.fail(
      'timeout',
      `${name}: not done after ${(ms / 1000).toFixed(1)} s (${progress}); waiting for ${who.join(', ')}. ` +
        'FP8_TIMEOUT_MS sets the deadline',
      awaited.map(({ rank }) => rank),
    );
  }

  /** "allReduce(sum, f32, 8 elements) #412 on world (rank 1 of 4)" */
  opName(op: Op): string {
    return `${describe(op.descriptor)} ${describePlace(op.request)} (rank ${this.rank} of ${this.size})`;
  }

  /** What this rank was doing, for messages about others. */
  doing(): string {
    const op = this.ops.values().next().value as Op | undefined;
    const name = op ? this.opName(op) : this.options.otherwiseIn?.();
    return name ? `in ${name}` : 'between collectives';
  }

  lost(rank: number, why: string): void {
    if (this.failure) return;
    this.fail(
      'peer-lost',
      `rank ${rank} at ${this.transport.address(rank)} is gone: ${why}; this rank was ${this.doing()}`,
      [rank],
    );
  }

  fail(kind: FailureKind, message: string, ranks: readonly number[] = []): void {
    if (this.failure) return;
    this.failure = new DistError(kind, message, ranks);
    for (const op of this.ops.values()) this.options.record?.('failed', op);
    this.options.onFailed(this.failure);
  }
}

const keyOf = (group: number, channel: number, opSeq: number): string => `${group}/${channel}/${opSeq}`;
