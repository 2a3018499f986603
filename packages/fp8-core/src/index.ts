export * from './backend.ts';
export * from './backends/native.ts';
export * from './backends/null.ts';
export * from './backends/reference.ts';
export {
  decodeBf16,
  decodeF16,
  decodeFp8,
  type EncodeOptions,
  encodeBf16,
  encodeF16,
  encodeFp8,
  scaleFor,
} from './codec.ts';
export * from './dtype.ts';
export * from './errors.ts';
export * from './kernels.gen.ts';
export * from './layers/index.ts';
export * from './memory.ts';
export * from './module.ts';
export * from './ops/index.ts';
// The pieces of `linear`, for layers that put communication between its products.
export {
  atSite,
  computeF32,
  gradientForProducts,
  multiplyByWeight,
  multiplyGradientByWeight,
  saveInput,
} from './ops/linear.ts';
export * from './parameter.ts';
export * from './random.ts';
export * from './recipe.ts';
export * from './recipes/index.ts';
export * from './scaling.ts';
export * from './shard.ts';
export * from './tape.ts';
export * from './tensor.ts';
