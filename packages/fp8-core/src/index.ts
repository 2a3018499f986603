export * from './backend.ts';
export * from './dtype.ts';
export * from './errors.ts';
export * from './kernels.gen.ts';
export * from './memory.ts';
export * from './tensor.ts';
