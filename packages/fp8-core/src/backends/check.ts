import { type KernelParam, type Kernels, kernelTable } from '../kernels.gen.ts';
import type { Tensor } from '../tensor.ts';
import type { Cell, HostMemory } from './host.ts';

/** Arguments of a kernel with every tensor looked up: what the TypeScript kernels compute on. */
export type CellsOf<A> = {
  [K in keyof A]-?: NonNullable<A[K]> extends number ? number : null extends A[K] ? Cell | null : Cell;
};

/** One function a kernel, on looked-up tensors. */
export type CellKernels = { [K in keyof Kernels]: (a: CellsOf<Parameters<Kernels[K]>[0]>) => void };

/**
 * Looks up and checks a call against the kernel table.
 * @throws TypeError for a missing tensor, a wrong dtype or a scalar that is no (whole) number
 * @throws RangeError for a tensor that is too small or was freed, or a negative integer
 */
export function checkCall(
  kernel: keyof Kernels,
  args: Record<string, unknown>,
  memory: HostMemory,
): Record<string, Cell | number | null> {
  const out: Record<string, Cell | number | null> = {};
  const numbers: Record<string, number> = {};
  const params = kernelTable[kernel];
  for (const p of params) {
    if (p.kind !== 'tensor') out[p.name] = numbers[p.name] = checkNumber(kernel, p, args[p.name]);
  }
  for (const p of params) {
    if (p.kind === 'tensor')
      out[p.name] = checkTensor(kernel, p, args[p.name] as Tensor | null | undefined, numbers, memory);
  }
  return out;
}

function checkNumber(kernel: string, p: KernelParam, value: unknown): number {
  if (typeof value !== 'number') throw new TypeError(`${kernel}: ${p.name} is ${String(value)}; expected a number`);
  if (p.kind === 'int') {
    if (!Number.isSafeInteger(value)) throw new TypeError(`${kernel}: ${p.name} is ${value}; expected a whole number`);
    if (value < 0) throw new RangeError(`${kernel}: ${p.name} is ${value}; expected a number >= 0`);
  }
  return value;
}

function checkTensor(
  kernel: string,
  p: KernelParam,
  tensor: Tensor | null | undefined,
  numbers: Record<string, number>,
  memory: HostMemory,
): Cell | null {
  if (tensor === null || tensor === undefined) {
    if (p.optional) return null;
    throw new TypeError(`${kernel}: ${p.name} is missing; expected a tensor of ${p.dtypes?.join(', ')}`);
  }
  if (typeof tensor.handle !== 'number') {
    throw new TypeError(`${kernel}: ${p.name} is no tensor; expected one of ${p.dtypes?.join(', ')}`);
  }
  const cell = memory.get(tensor.handle, `${kernel}: ${p.name}`);
  if (!p.dtypes?.includes(cell.dtype)) {
    throw new TypeError(`${kernel}: ${p.name} is ${cell.dtype}; expected ${p.dtypes?.join(', ')}`);
  }
  const needed = p.size ? p.size(numbers) : 0;
  if (cell.size < needed) {
    const equation = equationOf(p, numbers);
    throw new RangeError(
      `${kernel}: ${p.name} is ${cell.dtype}[${cell.size}] but needs ${needed} elements${equation && ` (${equation})`}`,
    );
  }
  return cell;
}

/** `k*n = 32*24`, from the source of the size function; empty for a constant size. */
function equationOf(p: KernelParam, numbers: Record<string, number>): string {
  const source = String(p.size).replace(/^.*?=>\s*/s, '');
  if (!source.includes('a.')) return '';
  const names = source.replace(/a\./g, '').replace(/\s+/g, '');
  return `${names} = ${names.replace(/[a-z_]\w*/g, (name) => String(numbers[name]))}`;
}

/** Kernels that check every call and then run `run`; the null backend has nothing to run. */
export function checkedKernels(memory: HostMemory, run: CellKernels | null): Kernels {
  const kernels: Record<string, (args: never) => void> = {};
  for (const name of Object.keys(kernelTable) as (keyof Kernels)[]) {
    const kernel = run?.[name] as ((a: unknown) => void) | undefined;
    kernels[name] = (args: Record<string, unknown>) => {
      const cells = checkCall(name, args, memory);
      kernel?.(cells);
    };
  }
  return kernels as unknown as Kernels;
}
