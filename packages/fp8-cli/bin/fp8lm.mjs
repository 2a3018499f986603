#!/usr/bin/env node
// The `fp8lm` command. Old Node versions must be able to parse this file, so that they can say what they lack.
import { readFileSync } from 'fs';

/** Of modules, addons, sockets and data files; with fewer, any of them may fail, some by ending the process. */
const leastOpenFiles = 256;

/** How many files this process may open; Infinity where that cannot be known. */
function openFilesLimit() {
  try {
    return Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))[1]);
  } catch {
    return Infinity; // unlimited, or not Linux
  }
}

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`fp8lm: needs Node 20.19 or newer; this is ${process.version} (https://nodejs.org)`);
  process.exit(2);
}
const openFiles = openFilesLimit();
if (openFiles < leastOpenFiles) {
  console.error(
    `fp8lm: may open ${openFiles} files only, and needs ${leastOpenFiles}; raise the limit, for example with \`ulimit -n 1024\``,
  );
  process.exit(2);
}
import('./entry.mjs').then(({ run }) => run(process.argv.slice(2)));
