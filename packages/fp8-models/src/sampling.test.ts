import { describe, expect, it } from 'vitest';
import { argmax, sampleToken } from './sampling.ts';

const logitsOf = (probabilities: number[]) => Float32Array.from(probabilities, Math.log);

function frequencies(logits: Float32Array, options: Parameters<typeof sampleToken>[1], n = 40_000): number[] {
  const counts: number[] = Array(logits.length).fill(0);
  for (let i = 0; i < n; i++) counts[sampleToken(logits, options, i)]++;
  return counts.map((count) => count / n);
}

/** 5 standard deviations of a binomial frequency: the draws are fixed, the bound says they are plausible. */
function expectClose(actual: number[], expected: number[], n = 40_000): void {
  expected.forEach((p, id) => {
    const bound = 5 * Math.sqrt((p * (1 - p)) / n) + 1e-12;
    expect(Math.abs(actual[id] - p), `token ${id}: ${actual[id]} for ${p}`).toBeLessThanOrEqual(bound);
  });
}

describe('sampleToken', () => {
  const p = [0.4, 0.05, 0.3, 0.05, 0.2];

  it('follows softmax at temperature 1', () => expectClose(frequencies(logitsOf(p), {}), p));

  it('sharpens to p^(1/T)', () => {
    const sharp = p.map((x) => x ** 2);
    const total = sharp.reduce((a, b) => a + b);
    expectClose(
      frequencies(logitsOf(p), { temperature: 0.5 }),
      sharp.map((x) => x / total),
    );
  });

  it('takes the first largest at temperature 0, and with top-k 1', () => {
    expect(sampleToken(Float32Array.of(1, 3, 3, 2), { temperature: 0 })).toBe(1);
    expect(frequencies(logitsOf(p), { topK: 1 }, 50)[0]).toBe(1);
  });

  it('keeps the k largest; equal ones by smaller id', () => {
    expectClose(frequencies(logitsOf(p), { topK: 3 }), [4 / 9, 0, 3 / 9, 0, 2 / 9]);
    const drawn = frequencies(logitsOf([0.25, 0.25, 0.25, 0.25]), { topK: 2 }, 200);
    expect(drawn[2] + drawn[3]).toBe(0);
  });

  it('keeps the smallest set that reaches top-p', () => {
    expectClose(frequencies(logitsOf(p), { topP: 0.69 }), [4 / 7, 0, 3 / 7, 0, 0]);
    expectClose(frequencies(logitsOf(p), { topP: 0.71 }), [4 / 9, 0, 3 / 9, 0, 2 / 9]);
    expect(frequencies(logitsOf(p), { topP: 1e-9 }, 50)[0]).toBe(1);
  });

  it('applies top-p to what top-k left', () =>
    expectClose(frequencies(logitsOf(p), { topK: 3, topP: 0.7 }), [4 / 7, 0, 3 / 7, 0, 0]));

  it('agrees with a sort on 5000 random logits for any k and p', () => {
    const logits = Float32Array.from({ length: 5000 }, (_, i) => Math.sin(i * i) * 6);
    const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
    const weights = order.map((id) => Math.exp(logits[id]));
    const total = weights.reduce((a, b) => a + b);
    for (const topK of [2, 17, 1000]) {
      const allowed = new Set(order.slice(0, topK));
      for (let i = 0; i < 300; i++) expect(allowed.has(sampleToken(logits, { topK }, i))).toBe(true);
    }
    for (const topP of [0.1, 0.5, 0.9]) {
      let sum = 0;
      let count = 0;
      while (sum < topP * total) sum += weights[count++];
      const allowed = new Set(order.slice(0, count));
      for (let i = 0; i < 300; i++) expect(allowed.has(sampleToken(logits, { topP }, i))).toBe(true);
    }
  });

  it('never draws a forbidden token', () => {
    const logits = Float32Array.of(-Infinity, 0, -Infinity, 0);
    const drawn = frequencies(logits, {}, 500);
    expect(drawn[0] + drawn[2]).toBe(0);
  });

  it('repeats with seed and position, and changes with either', () => {
    const logits = new Float32Array(1000);
    const draw = (seed: number) => Array.from({ length: 20 }, (_, i) => sampleToken(logits, { seed }, i));
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
    expect(new Set(draw(7)).size).toBeGreaterThan(15);
  });

  it('survives extreme logits and temperatures', () => {
    expect(sampleToken(Float32Array.of(3e38, -3e38, 0), { temperature: 0.01 })).toBe(0);
    expect([0, 1]).toContain(sampleToken(Float32Array.of(0, 1), { temperature: 1e9 }));
  });

  it('refuses broken logits and options with one clear line', () => {
    expect(() => sampleToken(Float32Array.of(0, NaN))).toThrow(/logit 1 is NaN/);
    expect(() => argmax(Float32Array.of(Infinity))).toThrow(RangeError);
    expect(() => argmax(Float32Array.of(-Infinity))).toThrow(/none of the 1 logits/);
    expect(() => sampleToken(new Float32Array(0))).toThrow(RangeError);
    for (const bad of [{ temperature: -1 }, { temperature: NaN }, { topK: 0 }, { topK: 1.5 }, { topP: 0 }, { topP: 2 }])
      expect(() => sampleToken(Float32Array.of(0, 1), bad)).toThrow(RangeError);
  });
});
