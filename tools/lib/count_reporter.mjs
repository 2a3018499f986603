// A vitest reporter that leaves each project's counts in packages/PROJECT/coverage/counts.json, where `npm test` adds them
// up. nx keeps the file with the cached result.
import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './root.mjs';

export const countsFile = (project) => join(root, 'packages', project, 'coverage', 'counts.json');

export default class CountReporter {
  onInit(vitest) {
    this.vitest = vitest;
  }

  onTestRunEnd(modules, unhandledErrors) {
    const counts = new Map(this.vitest.projects.map(({ name }) => [name, { passed: 0, failed: 0, skipped: 0 }]));
    for (const module of modules) {
      const count = counts.get(module.project.name);
      const before = count.failed;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        count[state === 'pending' ? 'failed' : state]++;
      }
      // A file that does not load, a hook that throws: no test failed, and yet the file did.
      if (module.state() === 'failed' && count.failed === before) count.failed++;
    }
    const [first] = counts.values();
    if (first) first.failed += unhandledErrors.length;
    for (const [name, count] of counts) write(countsFile(name), count);
  }
}

function write(path, value) {
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(`${path}.tmp-${process.pid}`, `${JSON.stringify(value)}\n`);
  renameSync(`${path}.tmp-${process.pid}`, path);
}
