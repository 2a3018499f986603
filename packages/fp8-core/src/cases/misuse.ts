import type { Backend } from '../backend.ts';
import { type DType, dtypes } from '../dtype.ts';
import { type Kernels, kernelTable } from '../kernels.gen.ts';
import { empty, scope, type Tensor } from '../tensor.ts';

/**
 * Calls every kernel with one argument wrong at a time: a tensor missing, one element short, of each wrong dtype, or freed; a
 * number missing, an integer with a fraction or negative.
 * @returns the calls that were not refused with a TypeError or RangeError of one line that names kernel and argument; none
 *   when the backend is sound
 */
export function acceptedMisuse(backend: Backend): string[] {
  const accepted: string[] = [];
  for (const kernel of Object.keys(kernelTable) as (keyof Kernels)[]) {
    scope(() => {
      const good = goodArguments(backend, kernel);
      const attempt = (name: string, value: unknown, what: string): void => {
        try {
          (backend.kernels[kernel] as (a: unknown) => void)({ ...good, [name]: value });
          accepted.push(`${kernel}: ${name} ${what} was accepted`);
        } catch (error) {
          const { message } = error as Error;
          const clear = message.includes(kernel) && message.includes(name) && !message.includes('\n');
          const typed = error instanceof TypeError || error instanceof RangeError;
          if (!clear || !typed) accepted.push(`${kernel}: ${name} ${what} was refused as "${error}"`);
        }
      };
      for (const p of kernelTable[kernel]) {
        if (p.kind !== 'tensor') {
          attempt(p.name, undefined, 'undefined');
          if (p.kind === 'int') attempt(p.name, 1.5, '1.5');
          if (p.kind === 'int') attempt(p.name, -1, '-1');
          continue;
        }
        const { dtype, size } = good[p.name] as Tensor;
        if (!p.optional) attempt(p.name, null, 'null');
        attempt(p.name, empty(backend, [size - 1], dtype), 'one element short');
        for (const wrong of Object.keys(dtypes) as DType[]) {
          if (!p.dtypes?.includes(wrong)) attempt(p.name, empty(backend, [size], wrong), `of ${wrong}`);
        }
        const handle = backend.alloc(dtype, size);
        backend.free(handle);
        attempt(p.name, { handle, dtype, size }, 'freed');
      }
    });
  }
  return accepted;
}

/** Arguments that fit: integers of 4 keep every size above 1, and numbers of 0.5 suit rates and steps alike. */
function goodArguments(backend: Backend, kernel: keyof Kernels): Record<string, unknown> {
  const numbers: Record<string, number> = {};
  const tensors: Record<string, Tensor> = {};
  for (const p of kernelTable[kernel]) if (p.kind !== 'tensor') numbers[p.name] = p.kind === 'int' ? 4 : 0.5;
  for (const p of kernelTable[kernel]) {
    if (p.kind === 'tensor') tensors[p.name] = empty(backend, [p.size?.(numbers) ?? 0], p.dtypes?.[0] ?? 'f32');
  }
  return { ...numbers, ...tensors };
}
