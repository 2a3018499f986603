import { expect, it } from 'vitest';
import { referenceBackend } from './backends/reference.ts';
import { windowSlot } from './dtype.ts';
import { ScalingState } from './scaling.ts';

it('takes the maximum amaxes over the ranks into every window, in one exchange', () => {
  const backend = referenceBackend();
  const scaling = new ScalingState(backend);
  const names = ['a', 'b', 'c'];
  const dtypes = ['e4m3', 'e5m2', 'e4m3'] as const;
  names.forEach((name, i) => {
    const { window } = scaling.site(name, { dtype: dtypes[i], scaling: 'delayed' });
    const values = new Float32Array(windowSlot.size);
    values[windowSlot.amax] = i === 1 ? Number.NaN : i + 1;
    if (window) backend.write(window.handle, new Uint8Array(values.buffer));
  });
  const calls: number[][] = [];
  scaling.update((amaxes) => {
    calls.push([...amaxes]);
    amaxes.set(amaxes.map((a) => Math.max(a, 2)));
  });
  // By dtype, in the order of the sites; a NaN counts as infinite, so that every rank sees it.
  expect(calls).toEqual([[1, 3, Number.POSITIVE_INFINITY]]);
  const history = names.map((name) => {
    const values = new Float32Array(windowSlot.size);
    const window = scaling.windows.get(name);
    if (window) backend.read(window.handle, new Uint8Array(values.buffer));
    return [values[windowSlot.history], values[windowSlot.count], values[windowSlot.amax]];
  });
  expect(history).toEqual([
    [2, 1, 0],
    [0, 0, 0],
    [3, 1, 0],
  ]);
  scaling.release();
});
