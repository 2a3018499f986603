#!/usr/bin/env node
// The `fp8lm` command. Old Node versions must be able to parse this file, so that they can say what they lack.
const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`fp8lm: needs Node 20.19 or newer; this is ${process.version} (https://nodejs.org)`);
  process.exit(2);
}
import('./entry.mjs').then(({ run }) => run(process.argv.slice(2)));
