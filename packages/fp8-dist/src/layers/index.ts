export { addBias } from './add_bias.ts';
export { vocabParallelCrossEntropy } from './cross_entropy.ts';
export { VocabParallelEmbedding, type VocabEmbeddingOptions, vocabParallelTable } from './embedding.ts';
export { parallelHeadLoss } from './head_loss.ts';
export {
  ColumnParallelLinear,
  type ColumnParallelOptions,
  type ParallelLinearOptions,
  RowParallelLinear,
  type RowParallelOptions,
} from './linear.ts';
export { alone, type Parallel, shardGroup, vocabRange } from './parallel.ts';
