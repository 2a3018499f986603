// How much strangers slow ranks down: two ranks of one thread reduce 64 KiB over CURVE without pause, alternately in peace and while
// a flood of connections that never become members comes and comes again. CPU time of the ranks' process for a step, flood against
// peace, median of the pairs: the stranger's own work, and whatever else the machine does, is not counted.
//   npx tsx -C source benchmarks/security/flood.ts [--pairs 7] [--steps 150]
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as zmq from 'zeromq';
import { curveKeys, newJobKey } from '../../packages/fp8-dist/src/rendezvous/security.ts';
import { serveZap } from '../../packages/fp8-dist/src/rendezvous/zap.ts';
import { pairOverTcp, post } from '../../packages/fp8-dist/test/wire.ts';

const { values } = parseArgs({
  options: { pairs: { type: 'string', default: '7' }, steps: { type: 'string', default: '150' } },
});
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const keys = curveKeys(newJobKey());
const zap = await serveZap(zmq, keys.publicKey);
const pair = await pairOverTcp(keys);
const port = pair.inboxes[0].endpoint.split(':').pop() as string;
const program = fileURLToPath(new URL('../../packages/fp8-dist/test/ranks/flood.mjs', import.meta.url));

let steps = 0;
let going = true;
const work = (async () => {
  while (going) {
    const id = ++steps;
    for (const e of pair.engines) post(e, id, 16_384);
    while (!pair.done.every((d) => d.has(id)) && !pair.failures.some(Boolean)) await new Promise(setImmediate);
  }
})();

/** Microseconds of CPU a step, over the next steps. */
async function cost(): Promise<number> {
  const [before, cpu] = [steps, process.cpuUsage()];
  while (steps - before < Number(values.steps)) await pause(5);
  const { user, system } = process.cpuUsage(cpu);
  return (user + system) / (steps - before);
}

await pause(1000);
for (const [kind, count] of [
  ['idle', 600],
  ['drip', 100],
  ['halfOpen', 300],
  ['early', 3],
] as const) {
  const ratios: number[] = [];
  for (let i = 0; i < Number(values.pairs); i++) {
    const calm = await cost();
    const command = [program, port, kind, `${count}`];
    const env = { ...process.env, FLOOD_AGAIN: '1', FLOOD_SECONDS: '60', NODE_OPTIONS: '' };
    const child = spawn(process.execPath, command, { env, stdio: 'ignore' });
    await pause(1000);
    ratios.push((await cost()) / calm);
    child.kill('SIGKILL');
    await pause(100);
  }
  ratios.sort((a, b) => a - b);
  const shown = ratios.map((r) => r.toFixed(3)).join(' ');
  console.log(
    `${kind} × ${count}: ${ratios[ratios.length >> 1].toFixed(3)} of the CPU time of a step in peace (${shown})`,
  );
}
going = false;
await work;
await pair.close();
await zap.close();
