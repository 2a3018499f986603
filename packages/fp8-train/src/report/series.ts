import type { Point } from './data.ts';

/** More points than this are not seen, and make the file large. */
const MAX_POINTS = 1500;

/** Curves over one x axis, as the chart takes them: NaN and gaps are null. */
export interface Aligned {
  x: number[];
  y: (number | null)[][];
}

/**
 * Mean over a window around each step, so that the curve neither lags nor leads: 1/50 of the run to each side, less
 * where the run begins (the first steps fall too steeply to be averaged), one-sided where it ends.
 * Non-finite values are left out.
 */
export function smooth(points: readonly Point[]): Point[] {
  const finite = points.filter(([, value]) => Number.isFinite(value));
  const sums = new Float64Array(finite.length + 1);
  finite.forEach(([, value], i) => {
    sums[i + 1] = sums[i] + value;
  });
  const half = Math.floor(finite.length / 50);
  return finite.map(([step], i) => {
    const reach = Math.min(half, i);
    const end = Math.min(finite.length, i + reach + 1);
    return [step, (sums[end] - sums[i - reach]) / (end - i + reach)];
  });
}

/** How far a curve lies above another, in percent, at the steps both have. */
export function percentAbove(points: readonly Point[], base: readonly Point[]): Point[] {
  const baseAt = new Map(base);
  return points.flatMap(([step, value]): Point[] => {
    const reference = baseAt.get(step);
    return reference === undefined || reference === 0 ? [] : [[step, 100 * (value / reference - 1)]];
  });
}

/** At most MAX_POINTS points: means over equal parts, at the last step of each, so that the end of the run is kept. */
export function thin(points: readonly Point[], maxPoints = MAX_POINTS): Point[] {
  if (points.length <= maxPoints) return [...points];
  const result: Point[] = [];
  for (let i = 0; i < maxPoints; i++) {
    const part = points.slice(
      Math.floor((i * points.length) / maxPoints),
      Math.floor(((i + 1) * points.length) / maxPoints),
    );
    const finite = part.filter(([, value]) => Number.isFinite(value));
    const mean = finite.reduce((sum, [, value]) => sum + value, 0) / finite.length;
    result.push([part[part.length - 1][0], finite.length === 0 ? NaN : mean]);
  }
  return result;
}

/** Puts curves with steps of their own on one axis. Later points of an equal step win. */
export function align(curves: readonly (readonly Point[])[]): Aligned {
  const x = [...new Set(curves.flatMap((points) => points.map(([step]) => step)))].sort((a, b) => a - b);
  const at = new Map(x.map((step, i) => [step, i]));
  const y = curves.map((points) => {
    const row: (number | null)[] = Array.from({ length: x.length }, () => null);
    for (const [step, value] of points)
      row[at.get(step)!] = Number.isFinite(value) ? Number(value.toPrecision(6)) : null;
    return row;
  });
  return { x, y };
}
