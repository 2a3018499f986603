import type { KernelCase } from './case.ts';
import { attentionCases } from './table/attention.ts';
import { castCases } from './table/casts.ts';
import { elementwiseCases } from './table/elementwise.ts';
import { embeddingCases } from './table/embedding.ts';
import { lossCases } from './table/loss.ts';
import { matmulCases } from './table/matmul.ts';
import { normCases } from './table/norms.ts';
import { optimizerCases } from './table/optimizer.ts';

export * from './case.ts';
export * from './gradients.ts';
export * from './misuse.ts';
export * from './run.ts';
export * from './tensors.ts';

/** What every backend is held to, kernel by kernel. */
export const kernelCases: readonly KernelCase[] = [
  ...castCases,
  ...elementwiseCases,
  ...normCases,
  ...matmulCases,
  ...attentionCases,
  ...embeddingCases,
  ...lossCases,
  ...optimizerCases,
];
