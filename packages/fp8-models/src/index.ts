export * from './tokenizer/index.ts';
export { argmax, sampleToken, type SamplingOptions } from './sampling.ts';
export { hash32, uniform } from './random.ts';
export * from './config.ts';
export * from './gpt.ts';
export * from './parts.ts';
export * from './pipelined.ts';
export * from './hf/index.ts';
