// Runs the lists of all ranks without a network, on a clock of its own: finds deadlocks, messages out of order, use of what is
// not there, and says when each forward and backward runs, how long ranks idle and how much is alive.
import { type Instruction, nextPlace, planSchedule, previousPlace, type ScheduleOptions } from './schedule.ts';

export interface SimulationOptions {
  /** Time of one micro-batch through one chunk, forward; the unit of the clock. */
  forwardTime?: number;
  backwardTime?: number;
  /** Time of a message between neighbours. */
  messageTime?: number;
  /** Messages that a sender may have under way to one rank before a send waits; 0: each send waits for its receiver's call. */
  buffers?: number;
}

/** A forward or backward on the clock. */
export interface Span {
  readonly op: 'forward' | 'backward';
  readonly micro: number;
  readonly chunk: number;
  readonly begin: number;
  readonly end: number;
}

export interface Simulation {
  /** By rank, in order. */
  readonly spans: Span[][];
  /** When the last rank is done. */
  readonly end: number;
  /** Share of `end` in which ranks neither ran forward nor backward, mean over ranks. */
  readonly idleShare: number;
  /** By rank: largest number of forwards whose backward has not ended. */
  readonly peakInFlight: number[];
  /** By rank: largest number of outputs and gradients made and not yet freed. */
  readonly peakUnsent: number[];
  /** By rank: largest number of inputs and gradients asked for and not yet used. */
  readonly peakAsked: number[];
}

interface Message {
  posted: number | null;
  sent: number | null;
}

/**
 * @param lists the instructions of each rank, as `schedules` makes them
 * @throws Error naming the ranks and what each waits for, if they wait in a circle; or the instruction that breaks a rule
 */
export function simulate(
  lists: readonly (readonly Instruction[])[],
  options: ScheduleOptions,
  { forwardTime = 1, backwardTime = 2, messageTime = 0, buffers = Number.POSITIVE_INFINITY }: SimulationOptions = {},
): Simulation {
  const plan = planSchedule(options);
  const messages = new Map<string, Message>();
  const message = (key: string): Message => {
    let m = messages.get(key);
    if (!m) messages.set(key, (m = { posted: null, sent: null }));
    return m;
  };
  // Messages between two ranks in one direction must be sent and asked for in one order: they have no names on the wire.
  const wire = new Map<string, { sent: string[]; posted: string[] }>();
  const onWire = (name: string): { sent: string[]; posted: string[] } => {
    let w = wire.get(name);
    if (!w) wire.set(name, (w = { sent: [], posted: [] }));
    return w;
  };
  const ranks = lists.map(() => ({
    at: 0,
    clock: 0,
    spans: [] as Span[],
    inFlight: new Set<string>(),
    peak: 0,
    unsent: 0,
    peakUnsent: 0,
    asked: 0,
    peakAsked: 0,
    done: new Set<string>(),
  }));

  /** Runs one instruction of `rank`; false if it has to wait for another rank. */
  const step = (rank: number): boolean => {
    const r = ranks[rank];
    const { op, micro, chunk } = lists[rank][r.at];
    const where = `rank ${rank}, instruction ${r.at} (${op} of micro-batch ${micro}, chunk ${chunk})`;
    const isForward = op === 'forward' || op === 'sendForward' || op === 'recvForward' || op === 'freeForward';
    const direction = isForward ? 'F' : 'B';
    const here = { rank, chunk };
    const from = isForward ? previousPlace(plan, here) : nextPlace(plan, here);
    const to = isForward ? nextPlace(plan, here) : previousPlace(plan, here);
    const key = (chunkOfSender: number, sender: number): string => `${direction}${micro}/${chunkOfSender}@${sender}`;
    const own = `${direction}${micro}/${chunk}`;
    switch (op) {
      case 'recvForward':
      case 'recvBackward': {
        if (!from) throw new Error(`${where}: nobody sends that`);
        const k = key(from.chunk, from.rank);
        message(k).posted = r.clock;
        r.peakAsked = Math.max(r.peakAsked, ++r.asked);
        checkOrder(onWire(`${direction} ${from.rank}>${rank}`), 'posted', k, where);
        break;
      }
      case 'sendForward':
      case 'sendBackward': {
        if (!to) throw new Error(`${where}: there is nobody to send to`);
        if (!r.done.has(own)) throw new Error(`${where}: not computed yet`);
        const k = key(chunk, rank);
        const m = message(k);
        const w = onWire(`${direction} ${rank}>${to.rank}`);
        if (m.sent === null) {
          m.sent = r.clock;
          checkOrder(w, 'sent', k, where);
        }
        const unposted = w.sent.filter((name) => messages.get(name)?.posted === null);
        if (unposted.length > buffers) return false;
        r.clock = Math.max(
          r.clock,
          ...w.sent.slice(0, w.sent.length - buffers).map((name) => message(name).posted ?? 0),
        );
        break;
      }
      case 'freeForward':
      case 'freeBackward': {
        const m = message(key(chunk, rank));
        if (m.sent === null) throw new Error(`${where}: not sent yet`);
        if (m.posted === null) return false;
        r.clock = Math.max(r.clock, Math.max(m.sent, m.posted) + messageTime);
        r.unsent--;
        break;
      }
      case 'forward':
      case 'backward': {
        let begin = r.clock;
        if (from) {
          const m = message(key(from.chunk, from.rank));
          if (m.posted === null) throw new Error(`${where}: its input was not asked for`);
          if (m.sent === null) return false;
          begin = Math.max(begin, Math.max(m.sent, m.posted) + messageTime);
          r.asked--;
        }
        if (r.done.has(own)) throw new Error(`${where}: done twice`);
        const live = `${micro}/${chunk}`;
        if (isForward) {
          r.inFlight.add(live);
          r.peak = Math.max(r.peak, r.inFlight.size);
        } else if (!r.inFlight.delete(live)) throw new Error(`${where}: its forward has not run`);
        r.clock = begin + (isForward ? forwardTime : backwardTime);
        r.spans.push({ op, micro, chunk, begin, end: r.clock });
        r.done.add(own);
        if (to) r.peakUnsent = Math.max(r.peakUnsent, ++r.unsent);
        break;
      }
      default:
        op satisfies never;
    }
    r.at++;
    return true;
  };

  for (let moved = true; moved; ) {
    moved = false;
    for (let rank = 0; rank < lists.length; rank++)
      while (ranks[rank].at < lists[rank].length && step(rank)) moved = true;
  }
  const stuck = ranks.flatMap(({ at }, rank) =>
    at < lists[rank].length ? [`rank ${rank} at ${describeInstruction(lists[rank][at])}`] : [],
  );
  if (stuck.length) throw new Error(`schedule deadlocks: ${stuck.join(', ')}`);
  const end = Math.max(0, ...ranks.map((r) => r.clock));
  const busy = ranks.map((r) => r.spans.reduce((sum, s) => sum + s.end - s.begin, 0));
  return {
    spans: ranks.map((r) => r.spans),
    end,
    idleShare: end === 0 ? 0 : 1 - busy.reduce((a, b) => a + b, 0) / (end * ranks.length),
    peakInFlight: ranks.map((r) => r.peak),
    peakUnsent: ranks.map((r) => r.peakUnsent),
    peakAsked: ranks.map((r) => r.peakAsked),
  };
}

const describeInstruction = ({ op, micro, chunk }: Instruction): string => `${op} ${micro} of chunk ${chunk}`;

function checkOrder(
  w: { sent: string[]; posted: string[] },
  side: 'sent' | 'posted',
  key: string,
  where: string,
): void {
  const other = side === 'sent' ? w.posted : w.sent;
  const expected = other[w[side].length];
  w[side].push(key);
  if (expected !== undefined && expected !== key)
    throw new Error(`${where}: out of order on the wire; the other side has ${expected}, this side ${key}`);
}
