import { describe, expect, test } from 'vitest';
import { constant, cosine, wsd } from './schedule.ts';

const steps = (n: number, f: (step: number) => number): number[] => Array.from({ length: n }, (_, i) => f(i));

describe('cosine', () => {
  const schedule = cosine({ lr: 2, totalSteps: 101, warmupSteps: 10, minRatio: 0.1 });

  test('warms up linearly and already moves at step 0', () => {
    expect(steps(10, schedule)).toEqual(steps(10, (i) => (2 * (i + 1)) / 10));
  });

  test('has its peak after the warm-up, the mean in the middle and minRatio at the last step', () => {
    expect(schedule(10)).toBe(2);
    expect(schedule(55)).toBeCloseTo((2 + 0.2) / 2, 12);
    expect(schedule(100)).toBeCloseTo(0.2, 12);
  });

  test('falls at every step and stays at the end', () => {
    const values = steps(120, (i) => schedule(i + 10));
    for (let i = 1; i < 91; i++) expect(values[i]).toBeLessThan(values[i - 1]);
    expect(schedule(1000)).toBeCloseTo(0.2, 12);
  });
});

test('wsd is stable until the last decaySteps, then linear to minRatio', () => {
  const schedule = wsd({ lr: 1, totalSteps: 100, warmupSteps: 5, minRatio: 0, decaySteps: 20 });
  expect(schedule(4)).toBe(1);
  expect(schedule(79)).toBe(1);
  expect(schedule(89)).toBeCloseTo(0.5, 12);
  expect(schedule(99)).toBe(0);
});

test('constant stays at the peak', () => {
  expect(steps(3, constant({ lr: 3, totalSteps: 3, warmupSteps: 2 }))).toEqual([1.5, 3, 3]);
});

test('one step is enough for every schedule', () => {
  for (const make of [cosine, wsd, constant]) expect(make({ lr: 1, totalSteps: 1 })(0)).toBeGreaterThan(0);
});
