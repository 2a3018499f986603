// A rank that runs training in some layouts, one after the other; layouts smaller than the job leave the other ranks idle.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Communicator } from 'fp8-dist';
import { Ranks, type RunConfig, runTraining } from 'fp8-train';

export interface LayoutJob {
  config: Partial<RunConfig> & { out: string; steps: number };
}

/** @returns for each job the SHA-256 of the files of its last checkpoint, on rank 0 */
export default async function layouts(comm: Communicator, jobs: LayoutJob[]): Promise<string[][]> {
  const results: string[][] = [];
  for (const { config } of jobs) {
    const { dp = null, tp = 1, pp = 1, virtual = 1 } = config;
    const ranks = comm.size === 1 ? Ranks.alone() : Ranks.of(comm, { ...config, dp, tp, pp, virtual } as RunConfig);
    let saves = 0;
    await runTraining(config, (event) => void (saves += event.type === 'saved' ? 1 : 0), undefined, ranks);
    if (ranks.isFirst && saves !== 1) throw new Error(`${config.out}: saved ${saves} times`);
    results.push(ranks.isFirst ? hashesOf(config.out, config.steps) : []);
  }
  return results;
}

export function hashesOf(out: string, step: number): string[] {
  return ['model', 'optimizer'].map((name) => {
    const bytes = readFileSync(join(out, `step-${step}`, `${name}.safetensors`));
    return createHash('sha256').update(bytes).digest('hex');
  });
}
