import type { Backend } from '../backend.ts';
import { dtypes } from '../dtype.ts';
import { kernelTable } from '../kernels.gen.ts';
import { empty, scope, type Tensor } from '../tensor.ts';
import { CaseRandom, type Comparison, type KernelCase, type TensorSpec } from './case.ts';
import { differences, type Result } from './compare.ts';
import { encodeValues, rawBytes } from './tensors.ts';

export interface RunOptions {
  /** Elements before each tensor in its block: a view that starts there tries unaligned addresses. Default 0. */
  offset?: number;
  /** What products of two FP8 operands may be off besides, as a share of their largest result. Default 0: sums in float32. */
  fp8Sums?: number;
}

/** Elements after each tensor that no kernel may touch. */
const guard = 32;

/** One argument on one backend: the tensor that the kernel gets is a view into `block`. */
interface Placed {
  readonly block: Tensor;
  readonly tensor: Tensor;
  readonly before: Uint8Array;
  readonly scaleBefore: Float32Array | null;
}

type Specs = Record<string, TensorSpec | number | null | undefined>;

/**
 * Runs one case on a backend and on the oracle, from the same bytes, and compares.
 * @throws Error that lists every disagreement: a result with its worst element, a changed input, a write beyond a tensor,
 *   bytes left behind
 */
export function runCase(c: KernelCase, backend: Backend, oracle: Backend, options: RunOptions = {}): void {
  const problems: string[] = [];
  const before = backend.memory().live;
  const { specs, results } = expected(c, oracle);
  const { offset = 0, fp8Sums = 0 } = options;
  scope(() => {
    const got = place(backend, specs, offset);
    const live = backend.memory().live;
    call(backend, c, specs, got);
    backend.synchronize();
    const left = backend.memory().live - live;
    if (left !== 0) problems.push(`the kernel left ${left} bytes behind`);
    for (const p of kernelTable[c.kernel]) {
      const a = got[p.name];
      if (!a) continue;
      const spec = specs[p.name] as TensorSpec;
      const add = (lines: string[]): void => {
        for (const line of lines) problems.push(`${p.name} ${spec.dtype}[${spec.size}]: ${line}`);
      };
      add(beyond(a));
      const how = relaxed(c.compare[p.name] ?? { kind: 'bits' }, isFp8Product(c, specs) ? fp8Sums : 0);
      if (p.access !== 'in') add(differences(resultOf(a), results[p.name], how));
      else if (!isWritten(c, specs, p.name)) add(changed(a));
    }
  });
  const leaked = backend.memory().live - before;
  if (leaked !== 0) problems.push(`${leaked} bytes leaked`);
  if (problems.length) throw new Error(`${c.kernel} (${c.name}) on ${backend.name}:\n  ${problems.join('\n  ')}`);
}

const relaxed = (how: Comparison, share: number): Comparison =>
  how.kind === 'close' ? { ...how, ofMax: how.ofMax + share } : how;

/** A product that FP8 tensor cores compute. */
function isFp8Product(c: KernelCase, specs: Specs): boolean {
  const isFp8 = (spec: Specs[string]): boolean =>
    typeof spec === 'object' && (spec?.dtype === 'e4m3' || spec?.dtype === 'e5m2');
  return c.kernel === 'gemm' && isFp8(specs.a) && isFp8(specs.b) && specs.compute_f32 === 0;
}

interface Expected {
  readonly specs: Specs;
  /** Of every tensor argument, after the call. */
  readonly results: Record<string, Result>;
}

const known = new WeakMap<Backend, WeakMap<KernelCase, Expected>>();

/** Arguments of a case and what the oracle makes of them; kept, since a case is run at several offsets and thread counts. */
function expected(c: KernelCase, oracle: Backend): Expected {
  let ofOracle = known.get(oracle);
  if (!ofOracle) known.set(oracle, (ofOracle = new WeakMap()));
  let result = ofOracle.get(c);
  if (!result) {
    result = scope(() => {
      const specs = c.args(new CaseRandom(`${c.kernel}: ${c.name}`));
      const placed = place(oracle, specs, 0);
      call(oracle, c, specs, placed);
      oracle.synchronize();
      return { specs, results: Object.fromEntries(Object.entries(placed).map(([k, v]) => [k, resultOf(v)])) };
    });
    ofOracle.set(c, result);
  }
  return result;
}

function place(backend: Backend, specs: Specs, offset: number): Record<string, Placed> {
  const placed: Record<string, Placed> = {};
  for (const [name, spec] of Object.entries(specs)) {
    if (spec === null || spec === undefined || typeof spec === 'number' || spec.sameAs) continue;
    const { dtype, size, scale } = spec;
    const width = dtypes[dtype].bytes;
    const block = empty(backend, [offset + size + guard], dtype);
    // 0xff is NaN in every float format: both the guard and what a kernel forgets to write.
    const bytes = new Uint8Array(block.numBytes).fill(0xff);
    if (spec.values) {
      const stored = scale === 1 ? spec.values : Array.from(spec.values, (v) => v * scale);
      bytes.set(encodeValues(dtype, stored), offset * width);
    }
    backend.write(block.handle, bytes);
    if (dtypes[dtype].scaled) {
      backend.writeScale(block.handle, Float32Array.of(scale, 1 / scale, 0, 0));
    }
    placed[name] = {
      block,
      tensor: block.slice(offset, offset + size),
      before: bytes,
      scaleBefore: scaleOf(block),
    };
  }
  return placed;
}

function call(backend: Backend, c: KernelCase, specs: Specs, placed: Record<string, Placed>): void {
  const args: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(specs)) {
    if (spec === null || spec === undefined || typeof spec === 'number') args[name] = spec;
    else args[name] = placed[spec.sameAs ?? name].tensor;
  }
  (backend.kernels[c.kernel] as (a: unknown) => void)(args);
}

/** True if some out or inout argument is the same tensor as this input. */
const isWritten = (c: KernelCase, specs: Specs, name: string): boolean =>
  kernelTable[c.kernel].some((p) => {
    const spec = specs[p.name];
    return p.access !== 'in' && spec !== null && typeof spec === 'object' && spec.sameAs === name;
  }) || Object.values(specs).some((s) => s !== null && typeof s === 'object' && s.sameAs === name);

const scaleOf = (t: Tensor): Float32Array | null => (dtypes[t.dtype].scaled ? t.backend.readScale(t.handle) : null);

function resultOf({ tensor }: Placed): Result {
  return { dtype: tensor.dtype, bytes: rawBytes(tensor), block: scaleOf(tensor) };
}

/** Writes outside of the tensor but inside of its block. */
function beyond({ block, tensor, before }: Placed): string[] {
  const after = rawBytes(block);
  const begin = after.length - guard * dtypes[block.dtype].bytes - tensor.numBytes;
  for (let i = 0; i < after.length; i++) {
    if (i === begin) i += tensor.numBytes;
    if (after[i] !== before[i]) return [`byte ${i - begin} was written, but the tensor has ${tensor.numBytes}`];
  }
  return [];
}

function changed({ block, before, scaleBefore }: Placed): string[] {
  const after = rawBytes(block);
  const at = after.findIndex((v, i) => v !== before[i]);
  const scale = scaleOf(block);
  if (scale?.some((v, i) => !Object.is(v, scaleBefore?.[i]))) return ['the scale block of an input was changed'];
  return at < 0 ? [] : [`the input was changed, first at byte ${at} of its block`];
}
