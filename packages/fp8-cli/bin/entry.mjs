// Built or from source: an installed package has only dist; a checkout runs its sources through tsx whenever one of them
// is newer than what `tsc -b` made of it, so that developing needs no build.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { useTypeScript } from './typescript.mjs';

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const packages = dirname(here);
const isCheckout = existsSync(join(packages, '..', 'tools', 'setup.mjs'));

export async function run(args) {
  const fromSource = isCheckout && readdirSync(packages).some((name) => isStale(join(packages, name)));
  const entry = join(here, fromSource ? 'src/main.ts' : 'dist/main.js');
  if (!existsSync(entry)) {
    console.error('fp8lm: it is not built; run `npx tsc -b` in the repository');
    process.exitCode = 1;
    return;
  }
  if (fromSource && !(await useSources())) return;
  const { main } = await import(pathToFileURL(entry).href);
  process.exitCode = await main(args);
}

/** True if a package has sources newer than its last build, or none. */
function isStale(folder) {
  if (!existsSync(join(folder, 'tsconfig.json'))) return false;
  const built = statSync(join(folder, 'dist', 'tsconfig.tsbuildinfo'), { throwIfNoEntry: false });
  return !built || newest(join(folder, 'src')) > built.mtimeMs;
}

function newest(folder) {
  let time = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) time = Math.max(time, newest(path));
    else if (!entry.name.endsWith('.test.ts')) time = Math.max(time, statSync(path).mtimeMs);
  }
  return time;
}

/** TypeScript through tsx, and packages by their `source` export. */
async function useSources() {
  try {
    await useTypeScript(['source']);
    return true;
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    console.error('fp8lm: dependencies are missing; run `npm run setup` in the repository');
    process.exitCode = 1;
    return false;
  }
}
