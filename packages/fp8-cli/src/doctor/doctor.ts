// What this machine has for fp8lm. Every check says what it found and, where something is missing, what to do.
import { print, printJson } from '../output.ts';
import pc from 'picocolors';
import { backendChecks } from './backend.ts';
import { cudaChecks } from './cuda.ts';
import { machineChecks } from './machine.ts';

export interface Check {
  name: string;
  /** `missing` stops training on the CPU's native backend; `absent` is optional and not there. */
  state: 'ok' | 'missing' | 'absent';
  found: string;
  /** What to do about it. */
  advice?: string;
}

/** `fp8lm doctor`. @returns 0 if training on the CPU works, else 1 */
export async function doctor({ json }: { json?: boolean }): Promise<number> {
  const checks = [...machineChecks(), ...(await backendChecks()), ...cudaChecks()];
  const ok = checks.every(({ state }) => state !== 'missing');
  if (json) printJson({ ok, checks });
  else {
    const width = Math.max(...checks.map(({ name }) => name.length));
    for (const { name, state, found, advice } of checks) {
      const mark = { ok: pc.green('ok     '), missing: pc.red('missing'), absent: pc.yellow('absent ') }[state];
      print(`${mark}  ${name.padEnd(width)}  ${found}${advice ? `; ${advice}` : ''}`);
    }
    print();
    print(ok ? 'Training on the CPU works: try `fp8lm train`.' : 'Training on the CPU lacks something: see above.');
  }
  return ok ? 0 : 1;
}
