import type {
  AddArgs,
  DropoutArgs,
  GeluBackwardArgs,
  GeluForwardArgs,
  RopeArgs,
  ScaleArgs,
  SwigluBackwardArgs,
  SwigluForwardArgs,
} from '../../kernels.gen.ts';
import { randomWord } from '../../random.ts';
import type { CellsOf } from '../check.ts';
import { load, storeActivations, storePlain } from './cells.ts';
import { checkMultiple } from './limits.ts';

const f = Math.fround;

export function add({ y, a, b, n }: CellsOf<AddArgs>): void {
  const sum = load(a, n);
  const other = load(b, n);
  for (let i = 0; i < n; i++) sum[i] += other[i];
  storePlain(y, sum);
}

export function scale({ y, x, n, alpha }: CellsOf<ScaleArgs>): void {
  const values = load(x, n);
  for (let i = 0; i < n; i++) values[i] *= f(alpha);
  storePlain(y, values);
}

const root = Math.sqrt(2 / Math.PI);

export function gelu_forward({ y, x, window, n }: CellsOf<GeluForwardArgs>): void {
  const out = load(x, n).map((v) => 0.5 * v * (1 + Math.tanh(root * (v + 0.044715 * v ** 3))));
  storeActivations(y, out, window);
}

export function gelu_backward({ dx, dy, x, n }: CellsOf<GeluBackwardArgs>): void {
  const values = load(x, n);
  const out = load(dy, n).map((d, i) => {
    const v = values[i];
    const t = Math.tanh(root * (v + 0.044715 * v ** 3));
    // Where tanh is 1 to the last bit its slope is 0, whatever v^3 has become.
    const slope = t * t === 1 ? 0 : 0.5 * v * (1 - t * t) * root * (1 + 3 * 0.044715 * v * v);
    return d * (0.5 * (1 + t) + slope);
  });
  storePlain(dx, out);
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

export function swiglu_forward({ y, x, window, rows, dim }: CellsOf<SwigluForwardArgs>): void {
  const values = load(x, rows * 2 * dim);
  const out = new Float32Array(rows * dim);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < dim; c++) {
      const gate = values[r * 2 * dim + c];
      const up = values[r * 2 * dim + dim + c];
      out[r * dim + c] = gate * sigmoid(gate) * up;
    }
  }
  storeActivations(y, out, window);
}

export function swiglu_backward({ dx, dy, x, rows, dim }: CellsOf<SwigluBackwardArgs>): void {
  const values = load(x, rows * 2 * dim);
  const dOut = load(dy, rows * dim);
  const out = new Float32Array(rows * 2 * dim);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < dim; c++) {
      const at = r * 2 * dim + c;
      const gate = values[at];
      const up = values[at + dim];
      const s = sigmoid(gate);
      const d = dOut[r * dim + c];
      out[at] = d * up * s * (1 + gate * (1 - s));
      out[at + dim] = d * gate * s;
    }
  }
  storePlain(dx, out);
}

export function dropout({ y, x, residual, n, rate, seed, stream, offset }: CellsOf<DropoutArgs>): void {
  if (!(rate >= 0 && rate < 1)) throw new RangeError(`dropout: rate is ${rate}; expected 0 <= rate < 1`);
  const threshold = Math.floor(rate * 2 ** 32);
  const gain = f(1 / (1 - rate));
  const out = load(x, n);
  for (let i = 0; i < n; i++) {
    out[i] = randomWord(seed, stream, offset + i) >= threshold ? out[i] * gain : 0;
  }
  if (residual) {
    const r = load(residual, n);
    for (let i = 0; i < n; i++) out[i] += r[i];
  }
  storePlain(y, out);
}

export function rope(a: CellsOf<RopeArgs>): void {
  const { rows, batch, heads, kv_heads, head_dim, position, theta } = a;
  checkMultiple('rope', 'head_dim', head_dim, '2', 2);
  checkMultiple('rope', 'rows', rows, 'batch', batch);
  const width = (heads + 2 * kv_heads) * head_dim;
  const x = load(a.x, rows * width);
  const half = head_dim / 2;
  for (let r = 0; r < rows; r++) {
    const t = position + Math.floor(r / batch);
    for (let h = 0; h < heads + kv_heads; h++) {
      for (let i = 0; i < half; i++) {
        const angle = t * theta ** ((-2 * i) / head_dim) * (a.inverse ? -1 : 1);
        const at = r * width + h * head_dim + i;
        const x1 = x[at];
        const x2 = x[at + half];
        x[at] = x1 * Math.cos(angle) - x2 * Math.sin(angle);
        x[at + half] = x2 * Math.cos(angle) + x1 * Math.sin(angle);
      }
    }
  }
  storePlain(a.y, x);
}
