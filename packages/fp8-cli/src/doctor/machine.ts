import { accessSync, constants, readFileSync, statfsSync } from 'node:fs';
import { availableParallelism, cpus, freemem, tmpdir, totalmem } from 'node:os';
import { version } from '../version.ts';
import type { Check } from './doctor.ts';

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;

/** Node, processor, memory, disk. */
export function machineChecks(): Check[] {
  return [node(), processor(), memory(), disk()];
}

function node(): Check {
  const { engines } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    engines: { node: string };
  };
  const [major, minor] = (/\d+\.\d+/.exec(engines.node)?.[0] ?? '0.0').split('.').map(Number);
  const [ownMajor, ownMinor] = process.versions.node.split('.').map(Number);
  const isNewEnough = ownMajor > major || (ownMajor === major && ownMinor >= minor);
  const found = `${process.version} (${engines.node} is needed); fp8lm ${version()}`;
  return isNewEnough
    ? { name: 'Node', state: 'ok', found }
    : { name: 'Node', state: 'missing', found, advice: 'install a newer one from nodejs.org' };
}

function processor(): Check {
  const model = cpus()[0]?.model ?? 'unknown processor';
  return { name: 'processor', state: 'ok', found: `${model}, ${availableParallelism()} threads` };
}

function memory(): Check {
  return { name: 'memory', state: 'ok', found: `${gigabytes(totalmem())}, ${gigabytes(freemem())} free` };
}

function disk(): Check {
  const folder = process.cwd();
  try {
    accessSync(folder, constants.W_OK);
  } catch {
    return { name: 'disk', state: 'absent', found: `${folder} cannot be written to`, advice: 'give --out elsewhere' };
  }
  const { bavail, bsize } = statfsSync(folder);
  const free = bavail * bsize;
  return free > 1e9
    ? { name: 'disk', state: 'ok', found: `${gigabytes(free)} free in ${folder}` }
    : {
        name: 'disk',
        state: 'absent',
        found: `only ${gigabytes(free)} free in ${folder}`,
        advice: `give --out elsewhere, for example ${tmpdir()}`,
      };
}
