// Finite differences: what a backward kernel is held against.

/**
 * Central differences of sum(dy * f(x)) in every element of x. `f` gets float32 inputs and returns float32 outputs, so the
 * step must be large: with 5e-3 the rounding of f (6e-8 relative) and the third derivative both cost about 1e-5.
 */
export function numericalGradient(
  f: (x: Float32Array) => Float32Array,
  x: Float32Array,
  dy: ArrayLike<number>,
  step = 5e-3,
): Float64Array {
  const objective = (at: Float32Array): number => f(at).reduce((sum, y, i) => sum + y * dy[i], 0);
  return Float64Array.from(x, (v, i) => {
    const moved = x.slice();
    moved[i] = v + step;
    const high = moved[i];
    const above = objective(moved);
    moved[i] = v - step;
    return (above - objective(moved)) / (high - moved[i]);
  });
}

/** max |a - b| / max |b|. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let error = 0;
  let size = 0;
  for (let i = 0; i < b.length; i++) {
    error = Math.max(error, Math.abs(a[i] - b[i]));
    size = Math.max(size, Math.abs(b[i]));
  }
  return a.length === b.length ? error / size : Number.POSITIVE_INFINITY;
}
