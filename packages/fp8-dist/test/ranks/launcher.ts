// The launcher as a process of its own: `launcher.ts --nproc 2 … -- command`, for tests that start one a machine.
import { launchMain } from '../../src/launch/cli.ts';

process.exitCode = await launchMain(process.argv.slice(2));
