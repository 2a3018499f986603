// What only the lane promises (test/lane.test.ts), run on each rank.
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, writeSync } from 'node:fs';
import { type Communicator, DistError } from '../../src/index.ts';

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
