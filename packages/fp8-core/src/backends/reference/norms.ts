// Layer norm (Ba et al. 2016) and RMS norm (Zhang and Sennrich 2019): statistics and gradients in float64.
import type {
  LayerNormBackwardArgs,
  LayerNormForwardArgs,
  RmsNormBackwardArgs,
  RmsNormForwardArgs,
} from '../../kernels.gen.ts';
import type { CellsOf } from '../check.ts';
import { f32Of, load, storeActivations, storePlain } from './cells.ts';

export function layer_norm_forward(a: CellsOf<LayerNormForwardArgs>): void {
  const { rows, dim, eps } = a;
  const x = load(a.x, rows * dim);
  const weight = f32Of(a.weight);
  const bias = a.bias ? f32Of(a.bias) : null;
  const stats = f32Of(a.stats);
  const y = new Float32Array(rows * dim);
  for (let r = 0; r < rows; r++) {
    const row = x.subarray(r * dim, (r + 1) * dim);
    let mean = 0;
    for (const v of row) mean += v / dim;
    let variance = 0;
    for (const v of row) variance += (v - mean) ** 2 / dim;
    const invStd = 1 / Math.sqrt(variance + eps);
    for (let c = 0; c < dim; c++) y[r * dim + c] = (row[c] - mean) * invStd * weight[c] + (bias ? bias[c] : 0);
    stats[2 * r] = mean;
    stats[2 * r + 1] = invStd;
  }
  storeActivations(a.y, y, a.window);
}

// With n = (x - mean) * invStd and g = dy * weight: dx = invStd * (g - mean(g) - n * mean(g * n)).
export function layer_norm_backward(a: CellsOf<LayerNormBackwardArgs>): void {
  const { rows, dim } = a;
  const dy = load(a.dy, rows * dim);
  const x = load(a.x, rows * dim);
  const dx = a.residual ? load(a.residual, rows * dim) : new Float32Array(rows * dim);
  const weight = f32Of(a.weight);
  const stats = f32Of(a.stats);
  const dWeight = new Float64Array(dim);
  const dBias = new Float64Array(dim);
  for (let r = 0; r < rows; r++) {
    const mean = stats[2 * r];
    const invStd = stats[2 * r + 1];
    let meanG = 0;
    let meanGn = 0;
    for (let c = 0; c < dim; c++) {
      const d = dy[r * dim + c];
      const n = (x[r * dim + c] - mean) * invStd;
      meanG += (d * weight[c]) / dim;
      meanGn += (d * weight[c] * n) / dim;
      dWeight[c] += d * n;
      dBias[c] += d;
    }
    for (let c = 0; c < dim; c++) {
      const n = (x[r * dim + c] - mean) * invStd;
      dx[r * dim + c] += invStd * (dy[r * dim + c] * weight[c] - meanG - n * meanGn);
    }
  }
  addTo(f32Of(a.dweight), dWeight);
  if (a.dbias) addTo(f32Of(a.dbias), dBias);
  storePlain(a.dx, dx);
}

export function rms_norm_forward(a: CellsOf<RmsNormForwardArgs>): void {
  const { rows, dim, eps } = a;
  const x = load(a.x, rows * dim);
  const weight = f32Of(a.weight);
  const stats = f32Of(a.stats);
  const y = new Float32Array(rows * dim);
  for (let r = 0; r < rows; r++) {
    let square = 0;
    for (let c = 0; c < dim; c++) square += x[r * dim + c] ** 2 / dim;
    const invRms = 1 / Math.sqrt(square + eps);
    for (let c = 0; c < dim; c++) y[r * dim + c] = x[r * dim + c] * invRms * weight[c];
    stats[r] = invRms;
  }
  storeActivations(a.y, y, a.window);
}

// With n = x * invRms and g = dy * weight: dx = invRms * (g - n * mean(g * n)).
export function rms_norm_backward(a: CellsOf<RmsNormBackwardArgs>): void {
  const { rows, dim } = a;
  const dy = load(a.dy, rows * dim);
  const x = load(a.x, rows * dim);
  const dx = a.residual ? load(a.residual, rows * dim) : new Float32Array(rows * dim);
  const weight = f32Of(a.weight);
  const stats = f32Of(a.stats);
  const dWeight = new Float64Array(dim);
  for (let r = 0; r < rows; r++) {
    const invRms = stats[r];
    let meanGn = 0;
    for (let c = 0; c < dim; c++) {
      const dn = dy[r * dim + c] * x[r * dim + c] * invRms;
      meanGn += (dn * weight[c]) / dim;
      dWeight[c] += dn;
    }
    for (let c = 0; c < dim; c++) {
      const at = r * dim + c;
      dx[at] += invRms * (dy[at] * weight[c] - x[at] * invRms * meanGn);
    }
  }
  addTo(f32Of(a.dweight), dWeight);
  storePlain(a.dx, dx);
}

function addTo(sum: Float32Array, x: Float64Array): void {
  for (let i = 0; i < x.length; i++) sum[i] += x[i];
}
