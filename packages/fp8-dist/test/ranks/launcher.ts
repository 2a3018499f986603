// The launcher as a process of its own: `launcher.ts --nproc 2 … -- command`, as `fp8lm launch` does it.
import { UserError } from 'fp8-core';
import { launchMain } from '../../src/launch/cli.ts';

try {
  process.exitCode = await launchMain(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 2;
}
