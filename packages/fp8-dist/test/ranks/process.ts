// A rank that is a process: runs the module named in TEST_MODULE and prints its result as one JSON line.
import { init } from '../../src/index.ts';

const { default: body } = await import(process.env.TEST_MODULE as string);
const comm = await init();
try {
  const result = await body(comm, JSON.parse(process.env.TEST_ARGUMENT ?? 'null'));
  process.stdout.write(`${JSON.stringify({ result })}\n`);
} finally {
  await comm.close();
}
