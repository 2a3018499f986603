// Tensors are contiguous bytes with a shape and a dtype, named by a backend handle, and counted by hand: the garbage
// collector frees nothing during a synchronous step. A tensor belongs to the innermost scope when it is made; tapes, modules
// and works that need it longer `retain` it. At zero references its bytes go back to the backend.
import type { Backend } from './backend.ts';
import { type DType, dtypes } from './dtype.ts';
import { type Category, currentCategory, ledger } from './memory.ts';

export type Shape = readonly number[];

export const sizeOf = (shape: Shape): number => shape.reduce((a, b) => a * b, 1);

let nextId = 1;

export class Tensor {
  /** Unique in the process; tapes know tensors by it. */
  readonly id = nextId++;
  readonly backend: Backend;
  readonly handle: number;
  readonly dtype: DType;
  readonly shape: Shape;
  readonly size: number;
  readonly category: Category;
  /** The tensor whose bytes a view shares. */
  readonly base: Tensor | null;
  private refs = 1;

  constructor(backend: Backend, handle: number, dtype: DType, shape: Shape, base: Tensor | null, category: Category) {
    this.backend = backend;
    this.handle = handle;
    this.dtype = dtype;
    this.shape = shape;
    this.size = sizeOf(shape);
    this.base = base;
    this.category = category;
    if (!base) ledger.add(category, this.numBytes);
    scopes.at(-1)?.push(this);
  }

  get numBytes(): number {
    return this.size * dtypes[this.dtype].bytes;
  }

  get isFreed(): boolean {
    return this.refs === 0;
  }

  /** True when nobody but the caller's one reference holds it, so that it may be overwritten in place. */
  get isSole(): boolean {
    return this.refs === 1 && !this.base;
  }

  retain(): this {
    if (this.refs === 0) throw new Error(`internal: retain of a freed tensor ${this}`);
    this.refs++;
    return this;
  }

  release(): void {
    if (this.refs === 0) throw new Error(`internal: tensor ${this} freed twice`);
    if (--this.refs > 0) return;
    this.backend.free(this.handle);
    if (this.base) this.base.release();
    else ledger.add(this.category, -this.numBytes);
  }

  /** The same bytes under another shape. @throws RangeError if the number of elements differs */
  reshape(...shape: number[]): Tensor {
    if (sizeOf(shape) !== this.size) {
      throw new RangeError(`reshape: [${this.shape}] has ${this.size} elements, [${shape}] has ${sizeOf(shape)}`);
    }
    return this.viewOf(0, shape);
  }

  /** Rows [begin, end) of dim 0, sharing bytes (and the scale block). */
  slice(begin: number, end: number): Tensor {
    const [rows, ...rest] = this.shape;
    if (!(Number.isInteger(begin) && Number.isInteger(end) && begin >= 0 && begin <= end && end <= rows)) {
      throw new RangeError(`slice: rows [${begin}, ${end}) of [${this.shape}]; need 0 <= begin <= end <= ${rows}`);
    }
    return this.viewOf(begin * sizeOf(rest), [end - begin, ...rest]);
  }

  private viewOf(offset: number, shape: Shape): Tensor {
    const handle = this.backend.view(this.handle, offset, sizeOf(shape));
    return new Tensor(this.backend, handle, this.dtype, shape, this.retain(), this.category);
  }

  toString(): string {
    return `${this.dtype}[${this.shape}]`;
  }
}

/** An uninitialised tensor, owned by the innermost scope (or by the caller, outside of any scope). */
export function empty(backend: Backend, shape: Shape, dtype: DType): Tensor {
  for (const d of shape) {
    if (!Number.isInteger(d) || d < 0) throw new RangeError(`tensor: shape [${shape}] needs whole, non-negative dims`);
  }
  return new Tensor(backend, backend.alloc(dtype, sizeOf(shape)), dtype, shape, null, currentCategory());
}

/** An uninitialised tensor of the same backend, shape and dtype. */
export const emptyLike = (t: Tensor): Tensor => empty(t.backend, t.shape, t.dtype);

const scopes: Tensor[][] = [];

/**
 * Runs `fn` and frees the tensors made in it, except those it returns (a tensor, or an array or record of tensors), which
 * pass to the enclosing scope. Frees after a throw as well. `fn` must be synchronous.
 */
export function scope<T>(fn: () => T): T {
  return runScope(fn, true);
}

/** Like `scope`, but what `fn` returns belongs to the caller alone, who must `release` it: parameters, optimizer states. */
export function persist<T>(fn: () => T): T {
  return runScope(fn, false);
}

function runScope<T>(fn: () => T, toOuter: boolean): T {
  const made: Tensor[] = [];
  scopes.push(made);
  let result: T | undefined;
  try {
    result = fn();
    if (result instanceof Promise) throw new TypeError('scope: fn returned a promise; a scope must be synchronous');
    return result;
  } finally {
    scopes.pop();
    const kept = keptBy(result);
    const outer = toOuter ? scopes.at(-1) : undefined;
    for (const t of made) {
      if (!kept.has(t)) t.release();
      else outer?.push(t);
    }
  }
}

/** Runs `fn` in the open scope and tells which tensors it made there. For the tape. */
export function watchScope<T>(fn: () => T): { result: T; made: readonly Tensor[] } {
  const open = scopes.at(-1);
  const before = open?.length ?? 0;
  const result = fn();
  return { result, made: open?.slice(before) ?? [] };
}

function keptBy(result: unknown): Set<unknown> {
  if (result instanceof Tensor) return new Set([result]);
  if (Array.isArray(result)) return new Set(result);
  if (result && typeof result === 'object' && Object.getPrototypeOf(result) === Object.prototype)
    return new Set(Object.values(result));
  return new Set();
}

/** Number of scopes now open; a test's way to see that none leaked. */
export const scopeDepth = (): number => scopes.length;
