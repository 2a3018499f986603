import { decodeBf16, encodeBf16, encodeF16 } from '../../codec.ts';
import { scaleSlot } from '../../dtype.ts';
import type { ColumnSumsArgs, GemmArgs } from '../../kernels.gen.ts';
import type { CellsOf } from '../check.ts';
import { bytesOf, type Cell } from '../host.ts';
import { amaxOf, f32Of, load, loadStored, storePlain } from './cells.ts';
import { addColumnSums } from './columns.ts';

/**
 * c (+)= alpha * op(a) op(b) + bias, summed in float64. Without compute_f32 the stored values are rounded to bf16 first, as
 * the matrix units do; their scales multiply the sum. An f16 c is written at its present scale.
 */
export function gemm(g: CellsOf<GemmArgs>): void {
  const { m, n, k } = g;
  const a = rowsOf(g.a, m, k, g.trans_a !== 0, g.compute_f32);
  const b = rowsOf(g.b, n, k, g.trans_b === 0, g.compute_f32);
  const bias = g.bias ? f32Of(g.bias) : null;
  const alpha = Math.fround(g.alpha) * scaleInvOf(g.a) * scaleInvOf(g.b);
  const old = g.accumulate ? load(g.c, m * n) : null;
  const c = new Float32Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let p = 0; p < k; p++) sum += a[i * k + p] * b[j * k + p];
      c[i * n + j] = sum * alpha + (bias ? bias[j] : 0) + (old ? old[i * n + j] : 0);
    }
  }
  if (g.c.dtype === 'f16') storeHalf(g.c, c);
  else storePlain(g.c, c);
  if (g.amax) f32Of(g.amax)[0] = amaxOf(load(g.c, m * n));
}

/** Rows of op(a), or columns of op(b), as they enter the products: [rows, k], without the scale. */
function rowsOf(cell: Cell, rows: number, k: number, transposed: boolean, computeF32: number): Float32Array {
  let x = loadStored(cell, rows * k);
  if (!computeF32 && cell.dtype !== 'bf16') x = decodeBf16(encodeBf16(x));
  return transposed ? x.map((_, i) => x[(i % k) * rows + Math.floor(i / k)]) : x;
}

const scaleInvOf = (cell: Cell): number => (cell.scale ? cell.scale[scaleSlot.scaleInv] : 1);

function storeHalf(cell: Cell, x: Float32Array): void {
  const scale = cell.scale ? cell.scale[scaleSlot.scale] : 1;
  const codes = encodeF16(x.map((v) => v * scale));
  new Uint16Array(bytesOf(cell).buffer, cell.offset, x.length).set(codes);
}

export function column_sums({ y, x, rows, dim }: CellsOf<ColumnSumsArgs>): void {
  addColumnSums(f32Of(y), load(x, rows * dim), rows, dim);
}
