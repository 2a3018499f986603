// A rank that trains in name only: all-reduces in a loop and checks every sum. Started by the launcher.
//   LOOP_STEPS     ends after so many steps (default: never)
//   LOOP_SECONDS   ends after so long, when rank 0 says so
//   LOOP_LARGE     elements of the larger all-reduce (default 60,000)
//   LOOP_PACE      milliseconds of sleep after each step
//   LOOP_HANG      rank:step:how: its main thread spins for ever at that step, or (native) is in a call that does not return
//   LOOP_ENDS      rank:step:code: that rank exits with that code at that step
//   LOOP_DISAGREE  rank:step:kind: that rank calls something else at that step
// A failure is printed as one JSON line with the time.
import { pbkdf2Sync } from 'node:crypto';
import { writeSync } from 'node:fs';
import { DistError, type Group, init } from '../../src/index.ts';
import { crc32 } from '../../src/link/checksum.ts';

const numLarge = Number(process.env.LOOP_LARGE ?? 60_000);
const pace = Number(process.env.LOOP_PACE ?? 0);
const until = performance.now() + 1000 * Number(process.env.LOOP_SECONDS ?? Infinity);
const bytesOf = (x: Float32Array) => new Uint8Array(x.buffer);
const steps = Number(process.env.LOOP_STEPS ?? Infinity);
const at = (name: string) => (process.env[name] ?? '').split(':');
const comm = await init();
const { world, rank } = comm;
const say = (value: unknown) => process.stdout.write(`${JSON.stringify(value)}\n`);

function disagree(kind: string, g: Group): void {
  const x = new Float32Array(256);
  if (kind === 'shape') g.allReduce(new Float32Array(255)).wait();
  else if (kind === 'dtype') g.allReduce(new Int32Array(256)).wait();
  else if (kind === 'operation') g.broadcast(x).wait();
  else if (kind === 'reduction') g.allReduce(x, { op: 'max' }).wait();
  else if (kind === 'order') g.barrier().wait();
  else if (kind === 'group') pair?.allReduce(x).wait();
  else if (kind === 'step') return g.allReduce(new Float32Array(numLarge)).wait();
  throw new Error(`LOOP_DISAGREE: ${kind} went through`);
}

let pair: Group | null = null;
try {
  pair = world.split(rank < 2 ? 0 : 1);
  const small = new Float32Array(256);
  const large = new Float32Array(numLarge);
  // Folds every result: equal runs end with equal digests.
  let digest = 0;
  let step = 1;
  for (let over = false; step <= steps && !over; step++) {
    comm.setStep(step);
    const [hangRank, hangStep, how] = at('LOOP_HANG');
    if (hangRank && Number(hangRank) === rank && Number(hangStep) === step) {
      writeSync(1, `${JSON.stringify({ hangs: Date.now() })}\n`);
      // Half an hour of hashing, inside one native call.
      if (how === 'native') pbkdf2Sync('', '', 2 ** 31 - 1, 64, 'sha512');
      for (;;);
    }
    const [endRank, endStep, code] = at('LOOP_ENDS');
    if (endRank && Number(endRank) === rank && Number(endStep) === step) process.exit(Number(code));
    const [otherRank, otherStep, kind] = at('LOOP_DISAGREE');
    if (otherRank && Number(otherRank) === rank && Number(otherStep) === step) {
      say({ disagreed: Date.now() });
      disagree(kind, world);
    }
    small.fill(rank + step);
    large.fill(step);
    small[0] = rank === 0 && performance.now() > until ? 1 : 0;
    const works = [world.allReduce(large), world.allReduce(small)];
    for (const w of works) w.wait();
    const want = (world.size * (world.size - 1)) / 2 + world.size * step;
    if (small[7] !== want || large[numLarge - 1] !== world.size * step)
      throw new Error(`step ${step}: wrong sum ${small[7]}, ${large[numLarge - 1]}`);
    over = small[0] > 0;
    digest = crc32(bytesOf(large), crc32(bytesOf(small), digest));
    if (pace) await new Promise((r) => setTimeout(r, pace));
    else if (step % 10 === 0) await new Promise((r) => setImmediate(r));
    if (step === 5) say({ running: process.pid, rank });
  }
  say({ finished: rank, steps: step - 1, digest, longestSilenceMs: comm.longestSilenceMs });
} catch (error) {
  if (!(error instanceof DistError)) throw error;
  say({ failed: rank, at: Date.now(), kind: error.kind, ranks: error.ranks, message: error.message });
  process.exitCode = 3;
} finally {
  await comm.close();
}
