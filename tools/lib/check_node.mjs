// Imported first, for its effect: one clear line where Node is too old for the rest to load.
import { readFileSync } from 'fs';

const needed = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).engines.node;
const [major, minor] = /\d+\.\d+/.exec(needed)[0].split('.').map(Number);
const [ownMajor, ownMinor] = process.versions.node.split('.').map(Number);
if (ownMajor < major || (ownMajor === major && ownMinor < minor)) {
  console.error(`fp8lm needs Node ${needed}; this is ${process.version} (https://nodejs.org)`);
  process.exit(1);
}
