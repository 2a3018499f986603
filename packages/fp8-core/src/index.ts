export * from './backend.ts';
export * from './codec.ts';
export * from './dtype.ts';
export * from './errors.ts';
export * from './kernels.gen.ts';
export * from './memory.ts';
export * from './random.ts';
export * from './tensor.ts';
