import { expect, test } from 'vitest';
import { empty, inCategory, ledger, nullBackend, persist, scope, type Tensor } from './index.ts';

const backend = nullBackend();

test('a scope frees what it made and keeps what it returns', () => {
  const before = ledger.total();
  let inner: Tensor | undefined;
  const kept = scope(() => {
    inner = empty(backend, [10], 'f32');
    return empty(backend, [3], 'f32');
  });
  expect(inner?.isFreed).toBe(true);
  expect(kept.isFreed).toBe(false);
  expect(ledger.total() - before).toBe(12);
  kept.release();
  expect(ledger.total()).toBe(before);
});

test('a scope frees after a throw', () => {
  const before = ledger.total();
  expect(() =>
    scope(() => {
      empty(backend, [10], 'f32');
      throw new Error('no');
    }),
  ).toThrow('no');
  expect(ledger.total()).toBe(before);
});

test('a returned tensor belongs to the enclosing scope', () => {
  let t: Tensor | undefined;
  scope(() => {
    t = scope(() => empty(backend, [2], 'f32'));
    expect(t.isFreed).toBe(false);
  });
  expect(t?.isFreed).toBe(true);
});

test('persisted tensors outlive every scope', () => {
  const t = scope(() => [persist(() => empty(backend, [2], 'f32'))])[0];
  expect(t.isFreed).toBe(false);
  t.release();
  expect(t.isFreed).toBe(true);
  expect(() => t.release()).toThrow('freed twice');
});

test('a view keeps its base alive and shares its bytes', () => {
  const base = persist(() => empty(backend, [4, 3], 'e4m3'));
  const view = persist(() => base.slice(1, 3));
  base.release();
  expect(base.isFreed).toBe(false);
  expect(view.shape).toEqual([2, 3]);
  view.release();
  expect(base.isFreed).toBe(true);
});

test('views outside the tensor are refused with the numbers', () => {
  scope(() => {
    const t = empty(backend, [4, 3], 'f32');
    expect(() => t.slice(2, 5)).toThrow('rows [2, 5) of [4,3]');
    expect(() => t.reshape(5, 2)).toThrow('[4,3] has 12 elements, [5,2] has 10');
  });
});

test('an asynchronous scope is refused', () => {
  expect(() => scope(async () => 1)).toThrow('must be synchronous');
});

test('bytes are booked by category, live and peak', () => {
  ledger.resetPeak();
  const { weights } = ledger.live;
  scope(() => {
    inCategory('weights', () => empty(backend, [100], 'bf16'));
  });
  expect(ledger.live.weights).toBe(weights);
  expect(ledger.peak.weights).toBe(weights + 200);
});
