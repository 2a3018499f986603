// A stamp tells what a step was done for: a hash of its inputs. The step is skipped while the hash is the same.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Hash of files, of folders with all in them, and of other words. */
export function hashOf(paths, words = []) {
  const hash = createHash('sha256').update(JSON.stringify(words));
  for (const path of paths.flatMap(filesUnder).sort()) hash.update(`\n${path}\n`).update(readFileSync(path));
  return hash.digest('hex').slice(0, 32);
}

function filesUnder(path) {
  if (!existsSync(path)) return [];
  try {
    return readdirSync(path, { withFileTypes: true }).flatMap((entry) => filesUnder(join(path, entry.name)));
  } catch (error) {
    if (error.code === 'ENOTDIR') return [path];
    throw error;
  }
}

export const readStamp = (path) => (existsSync(path) ? readFileSync(path, 'utf8').trim() : undefined);

export function writeStamp(path, hash) {
  mkdirSync(dirname(path), { recursive: true });
  const aside = `${path}.tmp-${process.pid}`;
  writeFileSync(aside, `${hash}\n`);
  renameSync(aside, path);
}
