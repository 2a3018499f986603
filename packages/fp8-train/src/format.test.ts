import { describe, expect, it } from 'vitest';
import { formatBytes, formatCount, formatDuration, formatLoss, formatSmall } from './format.ts';

describe('numbers for people', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.00 kB'],
    [12_345, '12.3 kB'],
    [312_400_000, '312 MB'],
    [999_499, '999 kB'],
    [999_500, '1.00 MB'],
    [1_240_000_000, '1.24 GB'],
    [5e15, '5000 TB'],
    [-2000, '-2.00 kB'],
    [NaN, '?'],
  ])('bytes: %d is %s', (value, expected) => expect(formatBytes(value)).toBe(expected));

  it.each([
    [37, '37'],
    [36.6, '36.6'],
    [18_234, '18.2k'],
    [123_900_000, '124M'],
    [999_999, '1.00M'],
    [0, '0'],
  ])('counts: %d is %s', (value, expected) => expect(formatCount(value)).toBe(expected));

  it.each([
    [7, '00:07'],
    [72, '01:12'],
    [59.6, '01:00'],
    [3723, '1:02:03'],
    [86_400 * 2 + 3 * 3600 + 240, '2d 03:04'],
    [NaN, '--:--'],
    [Infinity, '--:--'],
    [-1, '--:--'],
  ])('durations: %d s is %s', (value, expected) => expect(formatDuration(value)).toBe(expected));

  it.each([
    [3.41234, '3.412'],
    [10.8259, '10.83'],
    [9.9999, '10.00'],
    [NaN, 'nan'],
    [Infinity, 'infinity'],
  ])('losses: %d is %s', (value, expected) => expect(formatLoss(value)).toBe(expected));

  it.each([
    [2.9e-4, '2.9e-4'],
    [0.81, '0.81'],
    [0.001, '1.0e-3'],
    [12.34, '12'],
    [12_345, '1.2e+4'],
    [0, '0'],
    [NaN, 'nan'],
  ])('small numbers: %d is %s', (value, expected) => expect(formatSmall(value)).toBe(expected));
});
