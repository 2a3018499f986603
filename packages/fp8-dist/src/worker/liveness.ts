// Who is alive, and who gets on. Every rank's worker beats four times a second on the control sockets; a beat carries what the
// main thread does, because a worker can be well while its main thread hangs. To other machines beats also go ten times a second as
// datagrams, which packet loss cannot hold up. From the beats come
//   - a rank that fell silent (stopped, cut off): ended by name after `deadAfterMs`;
//   - a closed connection that does not come back, or a process that is no more: ended at once;
//   - two ranks that sleep in collectives which the other never entered: named before the deadline;
//   - the status of the awaited rank in the message of an expired deadline.

import type { Engine } from '../engine/engine.ts';
import { fold } from '../engine/descriptor.ts';
import type { DistError } from '../errors.ts';
import { isAlive } from '../host.ts';
import { encodeHeader, type Frame, type FrameKind, headerBytes } from '../link/frame.ts';
import type { Datagrams } from '../transport/datagrams.ts';
import type { Transport } from '../transport/transport.ts';
import { clock, type Control, type Sleep, word } from './control.ts';

export const beatMs = 250;
const datagramMs = 100;
const firstBeatMs = 750;

export interface LivenessOptions {
  engine: Engine;
  /** Carries beats; may be the engine's own where there is only one. */
  transport: Transport;
  /** Carries beats to other machines besides, or null. */
  datagrams?: Datagrams | null;
  control: Control;
  /** Silence after which a rank counts as dead. */
  deadAfterMs: number;
  /** Process id of a rank on this machine, or null. */
  pidOf: (rank: number) => number | null;
  /** The launcher was killed: what it would have removed is to be removed. */
  orphaned?: () => void;
  /** The collective that the main thread sleeps in, or null. */
  sleepingIn: () => Sleep | null;
  /** True once this rank has entered the collective, if it still remembers. */
  hasPosted: (group: number, channel: number, opSeq: number) => boolean;
}

interface Peer {
  lastBeat: number;
  /** Number of the newest beat. */
  lastNumber: number;
  downSince: number;
  left: boolean;
  progress: number;
  progressAt: number;
  step: number;
  /** Where its main thread sleeps: name of the group, channel and number, or null. */
  asleep: { group: number; channel: number; opSeq: number; ms: number; awaitsUs: boolean; text: string } | null;
  /** The sleep of ours that it has heard of and not entered; see `sleepKey`. */
  denies: number;
}

const launcherPid = Number(process.env.FP8_LAUNCHER_PID ?? 0);
const goneAfterMs = 800;
const tickMs = 50;

export class Liveness {
  private readonly o: LivenessOptions;
  private readonly peers: Peer[];
  private readonly timer: NodeJS.Timeout;
  private lastTick = performance.now();
  private nextBeat = 0;
  private nextDatagram = 0;
  private beats = 0;
  private stopped = false;

  constructor(options: LivenessOptions) {
    this.o = options;
    const now = performance.now();
    this.peers = Array.from({ length: options.engine.size }, () => ({
      // A little longer for the first beat: the others may still be opening their sockets.
      lastBeat: now + firstBeatMs,
      lastNumber: 0,
      downSince: 0,
      left: false,
      progress: -1,
      progressAt: now,
      step: 0,
      asleep: null,
      denies: 0,
    }));
    this.timer = setInterval(() => this.tick(), tickMs);
  }

  stop(): void {
    this.stopped = true;
    clearInterval(this.timer);
  }

  /** What a rank does, as far as its beats tell. */
  statusOf(rank: number): string {
    const p = this.peers[rank];
    const now = performance.now();
    const silent = now - p.lastBeat;
    if (silent > 3 * beatMs) return `no beat for ${(silent / 1000).toFixed(1)} s`;
    if (p.asleep) return `alive, its main thread waits in ${p.asleep.text}`;
    const step = p.step ? ` at step ${p.step}` : '';
    return `alive, but its main thread has been busy outside of collectives for ${((now - p.progressAt) / 1000).toFixed(1)} s${step}: hung or slow`;
  }

  /** False once a rank has said farewell, or cannot be reached. */
  isHere(rank: number): boolean {
    const p = this.peers[rank];
    return !p.left && !p.downSince && performance.now() - p.lastBeat < this.o.deadAfterMs;
  }

  wentDown(rank: number): void {
    if (this.peers[rank].downSince === 0) this.peers[rank].downSince = performance.now();
  }

  cameUp(rank: number): void {
    this.peers[rank].downSince = 0;
  }

  /** A control frame of a member. */
  receive(frame: Frame): void {
    if (this.stopped) return;
    const from = this.peers[frame.from];
    const { engine } = this.o;
    const now = performance.now();
    const text = Buffer.from(frame.payload ?? []).toString();
    const [number, step, name] = text.split('\n', 3);
    if (frame.kind === 'beat') {
      // A beat that TCP held up: its sender may have stopped since.
      if (!(Number(number) > from.lastNumber)) return;
      from.lastNumber = Number(number);
    }
    from.lastBeat = now;
    if (frame.kind === 'bye') {
      from.left = true;
      return;
    }
    if (frame.kind === 'abort') {
      // First line: the ranks to blame, so that everybody accuses the same.
      const cut = text.indexOf('\n');
      const ranks = text
        .slice(0, cut)
        .split(',')
        .filter(Boolean)
        .map(Number)
        .filter((r) => Number.isInteger(r) && r >= 0 && r < engine.size);
      const blamed = ranks.length ? ranks : [frame.from];
      return engine.fail(
        'aborted',
        `rank ${frame.from} at ${engine.transport.address(frame.from)} failed: ${text.slice(cut + 1)}`,
        blamed,
      );
    }
    // Beats: chunk = progress, slot = 1 while asleep, 2 while asleep and waiting for us, ack = ms asleep, seq = the collective in
    // which this rank sleeps as far as the sender knows, if the sender has not entered it.
    if (frame.chunk !== from.progress) {
      from.progress = frame.chunk;
      from.progressAt = now;
    }
    from.step = Number(step) || 0;
    const { group, channel, opSeq, slot, ack } = frame;
    from.asleep = slot ? { group, channel, opSeq, ms: ack, awaitsUs: slot === 2, text: name ?? '' } : null;
    from.denies = frame.seq;
    this.findDeadlock(frame.from);
  }

  /** Both sleep, each in what the other has not entered: neither can ever wake. */
  private findDeadlock(rank: number): void {
    const { engine } = this.o;
    const theirs = this.peers[rank].asleep;
    const mine = this.o.sleepingIn();
    if (!theirs || !mine || theirs.ms < 2 * beatMs || asleepMs(mine) < 2 * beatMs) return;
    if (!mine.absent.includes(rank)) return;
    // What either has entered is on its way to the other, however slow the network: this rank knows what it has entered itself,
    // and must have heard from the other that it knows of this sleep and has not entered that collective.
    if (this.o.hasPosted(theirs.group, theirs.channel, theirs.opSeq) || !theirs.awaitsUs) return;
    if (this.peers[rank].denies !== sleepKey(mine)) return;
    engine.fail(
      'mismatch',
      `rank ${engine.rank} (this one) waits in ${mine.name}, rank ${rank} waits in ${theirs.text}, ` +
        'and neither has entered what the other waits for. All ranks of a group must call the same collectives in the same order',
      [engine.rank, rank],
    );
  }

  private tick(): void {
    const { engine } = this.o;
    const now = performance.now();
    // This process itself was stopped or starved: what looks like the others' silence is its own.
    const stalled = now - this.lastTick;
    this.lastTick = now;
    if (stalled > 5 * tickMs)
      for (const p of this.peers) p.lastBeat = Math.max(p.lastBeat, Math.min(now, p.lastBeat + stalled));
    if (engine.failure || this.stopped) return;
    if (now >= this.nextBeat && launcherPid && !isAlive(launcherPid)) {
      // Killed before it could end us: nobody else will.
      this.o.orphaned?.();
      engine.fail('aborted', `the launcher (pid ${launcherPid}) has ended`);
      setTimeout(() => process.kill(process.pid, 'SIGTERM'), 500);
      return;
    }
    if (now >= this.nextBeat || (this.o.datagrams && now >= this.nextDatagram)) {
      const all = now >= this.nextBeat;
      if (all) this.nextBeat = now + beatMs;
      this.nextDatagram = now + datagramMs;
      this.beat(all);
    }
    for (let rank = 0; rank < this.peers.length; rank++) if (rank !== engine.rank) this.check(rank, now);
    engine.tick();
  }

  private check(rank: number, now: number): void {
    const p = this.peers[rank];
    const { engine } = this.o;
    if (p.left) {
      const active = engine.active.some((op) => op.request.members.includes(rank) && op.request.code !== 'close');
      if (active || this.o.sleepingIn()?.absent.includes(rank)) {
        engine.lost(rank, 'it has closed its communicator');
      }
      return;
    }
    if (p.downSince) {
      // It has said that it leaves, and only its farewell is missing.
      const leaving = engine.active.every(({ request: r, announced }) => {
        return r.code === 'close' && announced[r.members.indexOf(rank)];
      });
      if (leaving && engine.active.length) {
        p.left = true;
        return;
      }
      const pid = this.o.pidOf(rank);
      if (pid !== null && !isAlive(pid)) return engine.lost(rank, `its process ${pid} has ended`);
      // On a bad network connections close, and beats that still come say that the rank lives.
      const gone = now - p.downSince > goneAfterMs && now - p.lastBeat > goneAfterMs;
      if (gone) return engine.lost(rank, 'its connection closed and did not come back');
    }
    const silent = now - p.lastBeat;
    const { words } = this.o.control;
    if (silent > words[word.longestSilence]) words[word.longestSilence] = silent;
    if (silent > this.o.deadAfterMs) engine.lost(rank, `no heartbeat for ${(silent / 1000).toFixed(1)} s`);
  }

  private beat(overAll: boolean): void {
    const { control } = this.o;
    const sleep = this.o.sleepingIn();
    const step = Atomics.load(control.words, word.step);
    const text = `${++this.beats}\n${step}\n${sleep?.name ?? ''}`;
    const fields = (to: number) => ({
      group: sleep?.group ?? 0,
      channel: sleep?.channel ?? 0,
      opSeq: sleep?.opSeq ?? 0,
      chunk: Atomics.load(control.words, word.progress) >>> 0,
      slot: sleep ? (sleep.absent.includes(to) ? 2 : 1) : 0,
      ack: sleep ? asleepMs(sleep) : 0,
      seq: this.deniedTo(to),
    });
    this.toAll('beat', text, fields, overAll);
  }

  /** The collective in which `rank` sleeps as far as its beats tell, if this rank has not entered it; else 0. */
  private deniedTo(rank: number): number {
    const { asleep } = this.peers[rank];
    return asleep && !this.o.hasPosted(asleep.group, asleep.channel, asleep.opSeq) ? sleepKey(asleep) : 0;
  }

  /** Tells all others why this rank gives up. */
  abort(error: DistError): void {
    this.toAll('abort', `${error.ranks.slice(0, 64).join(',')}\n${error.message.slice(0, 2000)}`);
  }

  bye(): void {
    this.toAll('bye', '');
  }

  private toAll(
    kind: FrameKind,
    text: string,
    fields: (to: number) => Partial<Frame> = () => ({}),
    overAll = true,
  ): void {
    const { engine, transport, datagrams } = this.o;
    const payload = Buffer.from(text);
    for (let to = 0; to < engine.size; to++) {
      if (to === engine.rank) continue;
      const message = Buffer.allocUnsafe(headerBytes + payload.length);
      payload.copy(message, headerBytes);
      const plain = { group: 0, channel: 0, opSeq: 0, chunk: 0, slot: 0, ack: 0, seq: 0 };
      const addressed = { from: engine.rank, to, generation: engine.generation, payloadBytes: payload.length };
      encodeHeader(message, { kind, carrier: 'inline', ...plain, ...fields(to), ...addressed }, payload);
      if (overAll) transport.send(to, [message]);
      // A farewell must not overtake what it ends.
      if (kind !== 'bye') datagrams?.send(to, message);
    }
  }
}

/** Names a collective in one number, never 0. */
const sleepKey = ({ group, channel, opSeq }: { group: number; channel: number; opSeq: number }): number =>
  fold([group, channel, opSeq]) || 1;

/** `clock` counts in 31 bits and wraps. */
const asleepMs = (sleep: Sleep): number => (clock() - sleep.since) & 0x7fffffff;
