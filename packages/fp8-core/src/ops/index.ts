export * from './activation.ts';
export * from './add.ts';
export * from './attention.ts';
export * from './checkpoint.ts';
export * from './dropout.ts';
export * from './embedding.ts';
export * from './head_loss.ts';
export { accumulateProduct, type LinearLayer, linear, linearSites } from './linear.ts';
export * from './norm.ts';
