// What every transport must do, run on each rank; returns what went wrong. Expected values are computed here from scratch, one
// element at a time, and never with the code under test.
import { decodeFp8, type DType, encodeBf16, encodeFp8, scaleFor } from 'fp8-core';
import { crc32 } from '../../src/link/checksum.ts';
import type { Communicator, Group, Operand, Packed } from '../../src/index.ts';

/** Small whole numbers, so that sums are exact in f32. */
const value = (rank: number, i: number): number => (((rank + 1) * 31 + i * 7) % 61) - 30;
const floats = (rank: number, n: number) => Float32Array.from({ length: n }, (_, i) => value(rank, i));
const bytesOf = (a: ArrayBufferView) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
const dataOf = (x: Operand) =>
  'data' in x && !(x instanceof Float32Array) ? bytesOf((x as Packed).data) : bytesOf(x as Float32Array);

/** FP8 with its own just-in-time scale, times `spread` so that ranks' scales differ. */
function fp8(
  rank: number,
  n: number,
  dtype: 'e4m3' | 'e5m2',
  spread = 4 ** (rank % 3),
): { x: Packed; real: Float32Array } {
  const values = floats(rank, n).map((v) => v * spread * 1.37);
  const max = dtype === 'e4m3' ? 448 : 57344;
  const scale = scaleFor(
    values.reduce((m, v) => Math.max(m, Math.abs(v)), 0),
    max,
    1,
  );
  const data = encodeFp8(
    values.map((v) => v * scale),
    dtype,
  );
  return { x: { dtype, data, scale }, real: decodeFp8(data, dtype).map((v) => v / scale) };
}

class Checks {
  readonly failures: string[] = [];
  count = 0;

  equal(what: string, got: ArrayLike<number>, want: ArrayLike<number>): void {
    this.count++;
    let worst = -1;
    for (let i = 0; i < want.length; i++) {
      if (Object.is(got[i], want[i]) || got[i] === want[i]) continue;
      if (worst < 0 || Math.abs(got[i] - want[i]) > Math.abs(got[worst] - want[worst])) worst = i;
    }
    if (got.length !== want.length) this.failures.push(`${what}: ${got.length} elements, expected ${want.length}`);
    else if (worst >= 0) this.failures.push(`${what}: element ${worst} is ${got[worst]}, expected ${want[worst]}`);
  }

  true(what: string, ok: boolean): void {
    this.count++;
    if (!ok) this.failures.push(what);
  }

  sameBits(what: string, group: Group, x: Operand): void {
    const sums = group.gatherObjects(crc32(dataOf(x)));
    this.true(
      `${what}: ranks hold different bits`,
      sums.every((s) => s === sums[0]),
    );
  }
}

/** Decoded, summed in f32 in rank order after rounding to the smallest scale, rounded once: the whole rule, element by element. */
function expectedFp8(
  ranks: number,
  n: number,
  dtype: 'e4m3' | 'e5m2',
  range: 'fit' | 'keep',
  mean: boolean,
  steps: boolean,
  shares: number[],
) {
  const parts = Array.from({ length: ranks }, (_, r) => fp8(r, n, dtype).x);
  const shared = Math.min(...parts.map((p) => p.scale as number));
  const down = range === 'fit' ? 2 ** -Math.ceil(Math.log2(ranks)) : 1;
  const atShared = parts.map((p) => {
    const v = decodeFp8(p.data as Uint8Array, dtype).map((q) => Math.fround(q * (shared / (p.scale as number))));
    return decodeFp8(encodeFp8(v, dtype), dtype);
  });
  const sum = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    const owner = shares.findIndex((_, k) => i < shares[k + 1]);
    for (let k = 0; k < ranks; k++) {
      const r = steps ? (owner + 1 + k) % ranks : k;
      sum[i] = k === 0 ? atShared[r][i] : Math.fround(sum[i] + atShared[r][i]);
      if (steps) sum[i] = decodeFp8(encodeFp8(new Float32Array([sum[i]]), dtype), dtype)[0];
    }
  }
  return {
    codes: encodeFp8(
      sum.map((v) => v * down),
      dtype,
    ),
    scale: shared * down * (mean ? ranks : 1),
  };
}

function reductions(check: Checks, g: Group, n: number): void {
  const { size, rank } = g;
  const all = (pick: (a: number, b: number) => number) =>
    Float32Array.from({ length: n }, (_, i) => Array.from({ length: size }, (_x, r) => value(r, i)).reduce(pick));
  const sum = all((a, b) => a + b);
  const cases = [
    ['sum', sum],
    ['max', all((a, b) => Math.max(a, b))],
    ['min', all((a, b) => Math.min(a, b))],
    ['mean', sum.map((v) => v / size)],
  ] as const;
  for (const [op, want] of cases) {
    const x = floats(rank, n);
    g.allReduce(x, { op }).wait();
    if (op === 'mean')
      check.true(
        `allReduce f32 mean ${n}`,
        want.every((w, i) => Math.abs(x[i] - w) <= 1e-5 * Math.abs(w) + 1e-30),
      );
    else check.equal(`allReduce f32 ${op} ${n}`, x, want);
    check.sameBits(`allReduce f32 ${op} ${n}`, g, x);
  }
  const integers = Int32Array.from(floats(rank, n));
  g.allReduce(integers).wait();
  check.equal(`allReduce i32 ${n}`, integers, sum);

  const bf16: Packed = { dtype: 'bf16', data: encodeBf16(floats(rank, n)) };
  g.allReduce(bf16).wait();
  check.equal(`allReduce bf16 ${n}`, bf16.data, encodeBf16(sum));

  const shares = evenSharesOf(n, size);
  for (const dtype of ['e4m3', 'e5m2'] as const) {
    for (const [range, op, steps] of [
      ['fit', 'sum', false],
      ['keep', 'mean', false],
      ['keep', 'sum', true],
    ] as const) {
      if (size === 1) break;
      const { x } = fp8(rank, n, dtype);
      g.allReduce(x, { op, range, roundEachStep: steps }).wait();
      const want = expectedFp8(size, n, dtype, range, op === 'mean', steps, shares);
      const name = `allReduce ${dtype} ${range} ${op}${steps ? ' steps' : ''} ${n}`;
      check.equal(name, x.data, want.codes);
      check.equal(`${name} scale`, [x.scale as number], [want.scale]);
      check.sameBits(name, g, x);
    }
  }
  const { x, real } = fp8(rank, n, 'e4m3', 1);
  const mean = { ...x, data: Uint8Array.from(x.data) };
  g.allReduce(mean, { op: 'mean' }).wait();
  const got = decodeFp8(mean.data, 'e4m3').map((v) => v / (mean.scale as number));
  const parts = g.size === 1 ? [real] : Array.from({ length: size }, (_, r) => fp8(r, n, 'e4m3', 1).real);
  const worst = got.reduce((m, v, i) => Math.max(m, Math.abs(v - parts.reduce((s, p) => s + p[i], 0) / size)), 0);
  // Half a step of e4m3 at the largest value, 41.1: 2^5 / 16 = 2; two roundings.
  check.true(`allReduce e4m3 mean ${n}: off by ${worst}`, worst <= 4);
}

function evenSharesOf(n: number, size: number): number[] {
  const blocks = Math.ceil(n / 64);
  return Array.from({ length: size + 1 }, (_, i) => Math.min(n, 64 * Math.floor((blocks * i) / size)));
}

function movement(check: Checks, g: Group, n: number): void {
  const { size, rank } = g;
  const share = new Float32Array(n);
  const whole = floats(rank, n * size);
  g.reduceScatter(share, whole).wait();
  check.equal(
    `reduceScatter ${n}`,
    share,
    share.map((_, i) => Array.from({ length: size }, (_x, r) => value(r, rank * n + i)).reduce((a, b) => a + b)),
  );
  check.equal(`reduceScatter ${n} leaves its input`, whole, floats(rank, n * size));

  const gathered = new Float32Array(n * size);
  g.allGather(gathered, floats(rank, n)).wait();
  check.equal(
    `allGather ${n}`,
    gathered,
    gathered.map((_, i) => value(Math.floor(i / n), i % n)),
  );

  for (let root = 0; root < size; root += Math.max(1, size - 1)) {
    const b = floats(rank, n);
    g.broadcast(b, root).wait();
    check.equal(`broadcast ${n} from ${root}`, b, floats(root, n));
  }

  const exchanged = new Float32Array(n * size);
  g.allToAll(exchanged, floats(rank, n * size)).wait();
  check.equal(
    `allToAll ${n}`,
    exchanged,
    exchanged.map((_, i) => value(Math.floor(i / n), rank * n + (i % n))),
  );

  if (size > 1) {
    const tensors = [0, 1, 2].map((k) => fp8(rank + k, n + k, 'e4m3').x);
    const owners = [0, 0, size - 1];
    g.gatherFromOwners(tensors, owners).wait();
    tensors.forEach((t, k) => {
      const original = fp8(owners[k] + k, n + k, 'e4m3').x;
      check.equal(`gatherFromOwners ${n} tensor ${k}`, t.data, original.data);
      check.equal(`gatherFromOwners ${n} tensor ${k} scale`, [t.scale as number], [original.scale as number]);
    });
    const owned = [floats(rank, n), floats(rank, n + 3)];
    g.reduceToOwners(owned, [0, size - 1]).wait();
    owned.forEach((t, k) => {
      const mine = rank === (k === 0 ? 0 : size - 1);
      const want2 = t.map((_, i) =>
        mine ? Array.from({ length: size }, (_x, r) => value(r, i)).reduce((a, b) => a + b) : value(rank, i),
      );
      check.equal(`reduceToOwners ${n} tensor ${k}`, t, want2);
    });
  }
}

/** Every rank sends to the next, with and without a channel of their own in shared memory. */
function sends(check: Checks, g: Group, sizes: readonly number[]): void {
  const { size, rank } = g;
  if (size === 1) return;
  const to = (rank + 1) % size;
  const from = (rank + size - 1) % size;
  const onLanes = g.split(0, rank, 'lanes') as Group;
  onLanes.openLanes(g.ranks.map((_, r) => [r, (r + 1) % size] as const));
  for (const [name, group] of [
    ['send', g],
    ['send on a lane', onLanes],
  ] as const) {
    for (const n of sizes) {
      const { x } = fp8(rank, n, 'e4m3');
      const came: Packed = { dtype: 'e4m3', data: new Uint8Array(n), scale: 1 };
      const plain = new Float32Array(n);
      const works = [group.send(x, to), group.recv(came, from), group.recv(plain, from)];
      works.push(group.send(floats(rank, n), to));
      for (const w of works.reverse()) w.wait();
      const want = fp8(from, n, 'e4m3').x;
      check.equal(`${name} ${n}`, came.data, want.data);
      check.equal(`${name} ${n} scale`, [came.scale as number], [want.scale as number]);
      check.equal(`${name} ${n} leaves what was sent`, x.data, fp8(rank, n, 'e4m3').x.data);
      check.equal(`${name} ${n} in order`, plain, floats(from, n));
    }
  }
}

function others(check: Checks, g: Group): void {
  const { size, rank } = g;
  g.barrier().wait();
  const objects = g.gatherObjects({ rank, text: 'r'.repeat(rank * 1000), list: [rank, null] });
  check.true(
    'gatherObjects',
    objects.every((o, r) => o.rank === r && o.text.length === r * 1000 && o.list[0] === r),
  );

  // Several in flight, waited for in another order.
  const many = Array.from({ length: 20 }, (_, k) => floats(rank + k, 100 + 5000 * (k % 3)));
  const works = many.map((x) => g.allReduce(x));
  for (const k of [...many.keys()].reverse()) works[k].wait();
  many.forEach((x, k) => {
    check.equal(
      `in flight ${k}`,
      x,
      x.map((_, i) => Array.from({ length: size }, (_x, r) => value(r + k, i)).reduce((a, b) => a + b)),
    );
  });

  // Batched tensors with scales of their own.
  const batch = [5, 70, 1].map((n, k) => fp8(rank + k, n, 'e4m3').x);
  g.allReduce(batch, { op: 'max' }).wait();
  if (size > 1) {
    batch.forEach((x, k) => {
      const scales = Array.from({ length: size }, (_, r) => fp8(r + k, x.data.length, 'e4m3').x.scale as number);
      check.equal(`batch ${k} scale`, [x.scale as number], [Math.min(...scales)]);
    });
  }

  const half = g.split(rank % 2, -rank) as Group;
  check.true('split: members', half.size === Math.ceil((size - (rank % 2)) / 2));
  const x = new Float32Array([rank]);
  half.allReduce(x).wait();
  check.equal('split: sum', x, [half.ranks.reduce((a, b) => a + b, 0)]);
  check.true('split: null', (g.split(rank === 0 ? null : 1) === null) === (rank === 0));
}

export default function conformance(comm: Communicator, sizes: number[]): { failures: string[]; count: number } {
  const check = new Checks();
  for (const n of sizes) {
    reductions(check, comm.world, n);
    movement(check, comm.world, n);
  }
  sends(check, comm.world, sizes);
  others(check, comm.world);
  return { failures: check.failures.slice(0, 8), count: check.count };
}

export type { DType };
