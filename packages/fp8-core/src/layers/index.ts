export * from './linear.ts';
export * from './norm.ts';
