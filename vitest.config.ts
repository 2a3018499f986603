import { readdirSync } from 'node:fs';
import { defineConfig } from 'vitest/config';

/** Packages resolve to their TypeScript sources through the `source` condition, so tests need no build. */
const conditions = ['source', 'node', 'import', 'default'];

export default defineConfig({
  test: {
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    projects: readdirSync('packages').map((name) => ({
      resolve: { conditions },
      ssr: { resolve: { conditions, externalConditions: ['source'] } },
      test: {
        name,
        root: `packages/${name}`,
        include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
        pool: 'forks' as const,
        testTimeout: 120_000,
        hookTimeout: 120_000,
      },
    })),
  },
});
