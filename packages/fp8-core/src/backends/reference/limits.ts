/** Checks of what the kernel table cannot say: relations between scalars. They throw before anything is written. */

/** @throws RangeError unless value is a whole multiple of divisor > 0 */
export function checkMultiple(kernel: string, name: string, value: number, divisorName: string, divisor: number): void {
  if (divisor > 0 && value % divisor === 0) return;
  throw new RangeError(`${kernel}: ${name} is ${value}; expected a multiple of ${divisorName} (${divisor})`);
}

/** @throws RangeError if begin + count > end */
export function checkFits(kernel: string, what: string, begin: number, count: number, end: number): void {
  if (begin + count <= end) return;
  throw new RangeError(`${kernel}: ${what} [${begin}, ${begin + count}) end beyond ${end}`);
}
