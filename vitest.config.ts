import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

/** Packages resolve to their TypeScript sources through the `source` condition, so tests need no build. */
const conditions = ['source', 'node', 'import', 'default'];

export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    passWithNoTests: true,
    reporters: ['default', join(import.meta.dirname, 'tools/lib/count_reporter.mjs')],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    projects: readdirSync(join(import.meta.dirname, 'packages')).map((name) => ({
      resolve: { conditions },
      ssr: { resolve: { conditions, externalConditions: ['source'] } },
      test: {
        name,
        root: join(import.meta.dirname, 'packages', name),
        include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
        pool: 'forks' as const,
        testTimeout: 120_000,
        hookTimeout: 120_000,
      },
    })),
  },
});
