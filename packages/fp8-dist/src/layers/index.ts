export { addBias } from './add_bias.ts';
export {
  ColumnParallelLinear,
  type ColumnParallelOptions,
  type ParallelLinearOptions,
  RowParallelLinear,
  type RowParallelOptions,
} from './linear.ts';
export { alone, type Parallel, shardGroup, vocabRange } from './parallel.ts';
