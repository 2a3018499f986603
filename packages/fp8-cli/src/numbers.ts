// Parsers of option values. Commander reports what they throw with the option's name.
import { InvalidArgumentError } from 'commander';

const NUMBER = /^[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** A finite number: `3e-4`, `0.1`, `50_000`. */
export function number(text: string): number {
  const value = NUMBER.test(text) ? Number(text.replaceAll('_', '')) : Number.NaN;
  if (!Number.isFinite(value)) throw new InvalidArgumentError('It is not a number.');
  return value;
}

/** A parser of whole numbers in a range. */
export const whole =
  (min: number, max = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = number(text);
    if (!Number.isSafeInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(
        max === Number.MAX_SAFE_INTEGER
          ? `Need a whole number >= ${min}.`
          : `Need a whole number from ${min} to ${max}.`,
      );
    }
    return value;
  };

/** A parser of numbers in [min, max]. */
export const between =
  (min: number, max = Infinity) =>
  (text: string): number => {
    const value = number(text);
    if (value < min || value > max) {
      throw new InvalidArgumentError(
        max === Infinity ? `Need a number >= ${min}.` : `Need a number from ${min} to ${max}.`,
      );
    }
    return value;
  };

/** `--zero`, `--zero 2`. */
export const zeroStage = (text: string): number => whole(0, 2)(text);

export const count = whole(1);
export const countOrZero = whole(0);

/** `4,4,3,1`. */
export const counts = (text: string): number[] => text.split(',').map((part) => countOrZero(part));
