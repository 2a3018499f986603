// What only the lane promises (test/lane.test.ts), run on each rank.
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, writeSync } from 'node:fs';
import { type Communicator, DistError, type Group } from '../../src/index.ts';

/** Where this rank's block lies in its memory. */
function blockAddress(): number {
  const line = readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .find((l) => l.includes('memfd:fp8lm-lane') && l.includes(' rw-s '));
  return Number.parseInt((line as string).split('-')[0], 16);
}

/** Offset of the entry of operation `seq` of the world group in a block: native/comm_shared.h. */
const entryOf = (seq: number): number => 4096 + 320 + (seq % 8) * (64 + 4 * 4096 + 65536);

function flip(offset: number, value: number): void {
  const memory = openSync('/proc/self/mem', 'r+');
  writeSync(memory, Uint8Array.of(value), 0, 1, blockAddress() + offset);
  closeSync(memory);
}

const openFiles = (): number => readdirSync('/proc/self/fd').length;

const bodies: Record<string, (comm: Communicator, argument: number) => unknown> = {
  /** Many small collectives; memory and descriptors before and after. */
  many({ world, rank, size }, count) {
    const x = new Float32Array(64);
    const step = (i: number) => {
      x.fill(rank + i);
      world.allReduce(x).wait();
      if (x[63] !== (size * (size - 1)) / 2 + size * i) throw new Error(`collective ${i} gave ${x[63]}`);
    };
    const warm = Math.floor(count / 2);
    for (let i = 0; i < warm; i++) step(i);
    const before = { files: openFiles(), bytes: process.memoryUsage().rss };
    for (let i = warm; i < count; i++) step(i);
    return { before, after: { files: openFiles(), bytes: process.memoryUsage().rss } };
  },

  /** The sum arrives although this thread makes no call. */
  overlap({ world, rank }, n) {
    const x = new Float32Array(n).fill(rank + 1);
    const work = world.allReduce(x);
    const limit = performance.now() + 20_000;
    while ((x[0] !== 3 || x[n >> 1] !== 3 || x[n - 1] !== 3) && performance.now() < limit);
    const arrived = x[0] === 3 && x[n >> 1] === 3 && x[n - 1] === 3;
    work.wait();
    return { arrived, all: x.every((v) => v === 3) };
  },

  /** More than the entries of a group in flight, in two groups at once, waited for backwards; p2p in between. */
  crowd({ world, rank, size }, count) {
    const other = world.split(0, -rank);
    if (!other) throw new Error('no group');
    const xs = Array.from({ length: count }, (_, i) =>
      new Float32Array(1 + 40_000 * (i % 3 === 0 ? 1 : 0)).fill(rank + i),
    );
    // The groups' orders differ between the ranks; each group's own does not.
    const even = () => xs.flatMap((x, i) => (i % 2 ? [] : [{ i, work: world.allReduce(x) }]));
    const odd = () => xs.flatMap((x, i) => (i % 2 ? [{ i, work: other.allReduce(x) }] : []));
    const works = rank % 2 ? [...odd(), ...even()] : [...even(), ...odd()];
    const token = new Float32Array([rank]);
    if (rank === 0) world.send(token, 1).wait();
    if (rank === 1) world.recv(token, 0).wait();
    for (const { work } of works.reverse()) work.wait();
    return xs.every((x, i) => x.every((v) => v === (size * (size - 1)) / 2 + size * i)) && (rank > 1 || token[0] === 0);
  },

  /** More sends in flight than a channel has entries, both ways at once, small and in rounds, waited for backwards. */
  pairs({ world, rank, size }, count) {
    const group = world.split(0, rank, 'neighbours') as Group;
    const after = (rank + 1) % size;
    const before = (rank + size - 1) % size;
    group.openLanes(group.ranks.flatMap((_, r) => [[r, (r + 1) % size] as const, [(r + 1) % size, r] as const]));
    const length = (i: number) => (i % 3 === 0 ? 900_001 : 7 + i);
    const make = (fill: (i: number) => number) =>
      Array.from({ length: count }, (_, i) => new Float32Array(length(i)).fill(fill(i)));
    const [fromBefore, fromAfter] = [make(() => -1), make(() => -1)];
    const sent = make((i) => 1000 * rank + i);
    const works = sent.flatMap((x, i) => [
      group.send(x, after),
      group.recv(fromAfter[i], after),
      group.send(x, before),
      group.recv(fromBefore[i], before),
    ]);
    for (const work of works.reverse()) work.wait();
    const came = (list: Float32Array[], from: number) => list.every((x, i) => x.every((v) => v === 1000 * from + i));
    return { before: came(fromBefore, before), after: came(fromAfter, after) };
  },

  /** What rank 0 sends arrives although neither side makes a call after having posted it. */
  posted({ world, rank }, n) {
    const group = world.split(0, rank, 'two') as Group;
    group.openLanes([[0, 1]]);
    const x = new Float32Array(n).fill(1 - rank);
    const work = rank === 0 ? group.send(x, 1) : group.recv(x, 0);
    const limit = performance.now() + 20_000;
    while ((x[0] !== 1 || x[n - 1] !== 1) && performance.now() < limit);
    const arrived = x[n - 1] === 1;
    work.wait();
    return { arrived, all: x.every((v) => v === 1) };
  },

  /** Rank 1 expects `more` elements more than rank 0 sends. */
  unlike({ world, rank }, more) {
    const group = world.split(0, rank, 'two') as Group;
    group.openLanes([[0, 1]]);
    try {
      if (rank === 0) group.send(new Float32Array(8), 1).wait();
      else group.recv(new Float32Array(8 + more), 0).wait();
      world.barrier().wait();
      return { kind: 'none', ranks: [], message: '' };
    } catch (error) {
      if (!(error instanceof DistError)) throw error;
      return { kind: error.kind, ranks: error.ranks, message: error.message };
    }
  },

  /** Rank 0 damages what it has announced; `place` is an offset in the entry. Before it, three collectives. */
  damage({ world, rank }, place) {
    const x = new Float32Array(256).fill(1);
    try {
      for (let i = 0; i < 3; i++) world.allReduce(x, { op: 'max' }).wait();
      const token = new Float32Array(1);
      if (rank === 0) {
        const work = world.allReduce(x, { op: 'max' });
        if (place >= 0) flip(entryOf(4) + place, 99);
        world.send(token, 1).wait();
        work.wait();
        // What the others announced was sound, so its own call may have ended well.
        world.barrier().wait();
      } else {
        world.recv(token, 0).wait();
        world.allReduce(x, { op: 'max' }).wait();
        world.barrier().wait();
      }
      return { kind: 'none', ranks: [], message: '', same: x.every((v) => v === 1) };
    } catch (error) {
      if (!(error instanceof DistError)) throw error;
      const { kind, ranks, message } = error;
      return { kind, ranks, message, same: x.every((v) => v === 1) };
    }
  },

  /** Rank 1 leaves while the others go on. */
  leave({ world, rank }, n) {
    const x = new Float32Array(n);
    world.allReduce(x).wait();
    if (rank === 1) return null;
    try {
      world.allReduce(x).wait();
    } catch (error) {
      if (error instanceof DistError) return { kind: error.kind, message: error.message };
      throw error;
    }
    return { kind: 'none', message: '' };
  },

  /** Tells where its block is, and waits until it is released. */
  async hold({ world }, ms) {
    const fd = readdirSync('/proc/self/fd').find((f) => {
      try {
        return readlinkSync(`/proc/self/fd/${f}`).includes('fp8lm-lane');
      } catch {
        return false;
      }
    });
    process.stderr.write(`block ${process.pid} ${fd}\n`);
    await new Promise((resolve) => setTimeout(resolve, ms));
    const x = new Float32Array([1]);
    world.allReduce(x).wait();
    return x[0];
  },
};

export default (comm: Communicator, [name, argument]: [string, number]): unknown => bodies[name](comm, argument);
