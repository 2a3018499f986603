import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { version } from './version.ts';

/** Versions and machine, for run folders, reports and figures that are compared later. */
export function environment(): Record<string, string | number> {
  return {
    fp8lm: version(),
    node: process.version,
    cpu: cpus()[0]?.model ?? 'unknown',
    threads: availableParallelism(),
    memoryGB: Math.round(totalmem() / 1e9),
    system: `${process.platform} ${process.arch} ${release()}`,
    command: ['fp8lm', ...process.argv.slice(2)].join(' '),
  };
}
