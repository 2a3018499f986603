// The one place where FP8 meets matrix products.
//
//   forward    y  = x w^T + b        x in e4m3, w in e4m3
//   backward   dx = dy w             dy in e5m2
//              dw = dy^T x           into the weight's gradient, in its own dtype
//
// All sums are FP32; scales are applied in the product's epilogue. What is saved is the FP8 x, not the original, unless another
// op keeps that anyway (attention its output): then it is cast again in backward, which saves a byte an element. A weight
// stored in FP16 or BF16 is cast to e4m3 for each use and the cast freed at once: one more pass over the weight (about 2 % of
// a step on a CPU), no second copy in memory; a backend with `keepsCasts` keeps it from forward to backward. With a plain
// recipe the same code runs on unquantised tensors.
import type { Backend } from '../backend.ts';
import type { ActDType } from '../dtype.ts';
import type { Parameter } from '../parameter.ts';
import type { Cast, Fp8Gemm, Recipe } from '../recipe.ts';
import { activeWindow, type CastSite } from '../scaling.ts';
import { defineOp, type OpContext } from '../tape.ts';
import { empty, sizeOf, type Tensor } from '../tensor.ts';

/** What `linear` needs of a layer. */
export interface LinearLayer {
  /** [out, in] */
  readonly weight: Parameter;
  /** [out], float32 */
  readonly bias: Parameter | null;
  readonly recipe: Recipe;
  readonly sites: { x: CastSite; w: CastSite; dy: CastSite } | null;
}

/** Casts to FP8 at a site; returns `x` itself if a producer already made it FP8. */
function quantizeAt(x: Tensor, site: CastSite): Tensor {
  if (x.dtype === site.dtype) return x;
  const y = empty(x.backend, x.shape, site.dtype);
  x.backend.kernels.quantize({ y, x, window: activeWindow(site), n: x.size, random: 0 });
  return y;
}

/** An input as the product reads it: cast at its site, if the layer has one. */
export const atSite = (x: Tensor, site: CastSite | undefined): Tensor => (site ? quantizeAt(x, site) : x);

/**
 * Keeps what backward needs of an input x that forward read as `a`: x itself where another op keeps it anyway, else `a`. Of
 * either, `atSite` makes `a` again in backward, with the same bits, since a site's scale stays all step long.
 */
export const saveInput = (context: OpContext, x: Tensor, a: Tensor): void => context.save(context.isKept(x) ? x : a);

const isFp8 = (gemm: Recipe['gemm']): gemm is Fp8Gemm => typeof gemm === 'object';

/** The weight as the product reads it: FP8 when the recipe says so. */
const computeWeight = (layer: LinearLayer): Tensor =>
  layer.sites ? quantizeAt(layer.weight.data, layer.sites.w) : layer.weight.data;

/**
 * y = x w^T + b over the last dim.
 * @param x [..., in], in the recipe's activation dtype or already cast at the layer's x site
 * @returns [..., out] in the recipe's activation dtype
 * @throws RangeError if x's last dim is not the weight's
 */
export const linear = defineOp({
  name: 'linear',
  forward(context, x: Tensor, layer: LinearLayer) {
    const [n, k] = layer.weight.shape;
    if (x.shape.at(-1) !== k) {
      throw new RangeError(
        `linear ${layer.weight.name}: x is [${x.shape}] but w is [${n}, ${k}]; their last dims must match`,
      );
    }
    const a = atSite(x, layer.sites?.x);
    const w = computeWeight(layer);
    saveInput(context, x, a);
    if (x.backend.keepsCasts && w !== layer.weight.data) context.save(w);
    context.state = layer;
    return multiplyByWeight(a, layer, layer.bias, w);
  },
  backward(context, dy) {
    const layer = context.state as LinearLayer;
    const [input, w] = context.saved;
    const m = dy.size / layer.weight.shape[0];
    const site = dy.backend.castsBothWays ? layer.sites?.dy : null;
    const transposed = site ? empty(dy.backend, [layer.weight.shape[0], m], site.dtype) : null;
    const g = gradientForProducts(dy, layer, layer.bias, transposed);
    const dx = context.wants[0] ? multiplyGradientByWeight(g, layer, w ?? computeWeight(layer)) : null;
    accumulateProduct(layer.weight, g, atSite(input, layer.sites?.x), m, computeF32(layer.recipe), transposed);
    return [dx];
  },
});

/** The `compute_f32` of a recipe's products. */
export const computeF32 = (recipe: Recipe): number => (recipe.gemm === 'f32' ? 1 : 0);

/** a w^T (+ bias) in the activation dtype; `a` as the product reads it. [..., in] -> [..., out] */
export function multiplyByWeight(
  a: Tensor,
  layer: LinearLayer,
  bias: Parameter | null,
  w: Tensor = computeWeight(layer),
): Tensor {
  const [n, k] = layer.weight.shape;
  const y = empty(a.backend, withLastDim(a, n), layer.recipe.act);
  a.backend.kernels.gemm({
    c: y,
    a,
    b: w,
    bias: bias?.data,
    m: a.size / k,
    n,
    k,
    trans_a: 0,
    trans_b: 1,
    accumulate: 0,
    compute_f32: computeF32(layer.recipe),
    alpha: 1,
  });
  return y;
}

/** g w in the activation dtype: the gradient of the layer's input. [..., out] -> [..., in] */
export function multiplyGradientByWeight(g: Tensor, layer: LinearLayer, w: Tensor = computeWeight(layer)): Tensor {
  const [n, k] = layer.weight.shape;
  const dx = empty(g.backend, withLastDim(g, k), layer.recipe.act);
  g.backend.kernels.gemm({
    c: dx,
    a: g,
    b: w,
    m: g.size / n,
    n: k,
    k: n,
    trans_a: 0,
    trans_b: 0,
    accumulate: 0,
    compute_f32: computeF32(layer.recipe),
    alpha: 1,
  });
  return dx;
}

/**
 * dy as the products read it, its column sums added to the gradient of `bias` on the way. [..., out]
 * @param transposed gets the same as [out, rows], if dy is cast
 */
export function gradientForProducts(
  dy: Tensor,
  layer: LinearLayer,
  bias: Parameter | null = layer.bias,
  transposed: Tensor | null = null,
): Tensor {
  const { kernels } = dy.backend;
  const [dim] = layer.weight.shape;
  const rows = dy.size / dim;
  const sums = bias?.gradForAdding() ?? null;
  if (!layer.sites) {
    if (sums) kernels.column_sums({ y: sums, x: dy, rows, dim });
    return dy;
  }
  const site = layer.sites.dy;
  const g = empty(dy.backend, dy.shape, site.dtype);
  kernels.quantize_rows({ y: g, transposed, sums, x: dy, window: activeWindow(site), rows, dim, random: 0 });
  return g;
}

/**
 * Adds g^T a to the gradient of a weight [out, in]; g [m, out], a [m, in].
 * @param transposed g as [out, m], where it is known
 */
export function accumulateProduct(
  weight: Parameter,
  g: Tensor,
  a: Tensor,
  m: number,
  compute_f32: number,
  transposed: Tensor | null = null,
): void {
  const { backend } = weight;
  const [n, k] = weight.shape;
  const product = (c: Tensor, accumulate: boolean, amax: Tensor | null = null): void =>
    backend.kernels.gemm({
      c,
      amax,
      a: transposed ?? g,
      b: a,
      m: n,
      n: k,
      k: m,
      trans_a: transposed ? 0 : 1,
      trans_b: 0,
      accumulate: accumulate ? 1 : 0,
      compute_f32,
      alpha: 1,
    });
  const { grad, accumulate } = weight.gradForAccumulation();
  if (grad.dtype === 'f32') return product(grad, accumulate);
  const exact = empty(backend, weight.shape, compute_f32 ? 'f32' : (backend.wideGradient ?? 'f32'));
  const { mu } = weight;
  if (accumulate) {
    product(exact, false);
    backend.kernels.accumulate_fp8({ y: grad, x: exact, mu, n: exact.size });
  } else {
    // The product's epilogue has seen every element: its amax saves the cast a pass.
    const known = empty(backend, [1], 'f32');
    product(exact, false, known);
    backend.kernels.quantize({ y: grad, x: exact, mu, known, n: exact.size, random: 0 });
  }
}

/** The cast sites of a linear layer called `name`; null for recipes without FP8 products. */
export function linearSites(
  name: string,
  recipe: Recipe,
  makeSite: (name: string, cast: Cast) => CastSite,
): LinearLayer['sites'] {
  const { gemm } = recipe;
  if (!isFp8(gemm)) return null;
  // A weight stored in FP8 already is what the product reads; it needs no site of its own.
  const storedFp8 = recipe.linear.weight === 'e4m3' || recipe.linear.weight === 'e5m2';
  return {
    x: makeSite(`${name}.x`, gemm.x),
    w: storedFp8 ? { dtype: gemm.w.dtype, window: null } : makeSite(`${name}.w`, gemm.w),
    dy: makeSite(`${name}.dy`, gemm.dy),
  };
}

/** Shape of an activation with `dim` channels over the same rows as `x`. */
export const withLastDim = (x: Tensor, dim: number): number[] => [...x.shape.slice(0, -1), dim];

/** An output of a producer that may cast at the next layer's site: activation dtype, or FP8. */
export function emptyFor(backend: Backend, shape: number[], act: ActDType, site: CastSite | null): Tensor {
  return empty(backend, shape, site ? site.dtype : act);
}

export const rowsOf = (x: Tensor): number => sizeOf(x.shape.slice(0, -1));
