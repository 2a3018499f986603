// A rank of a short job: joins, reduces, leaves; late by a little, as LATE says, now here, now there. Plain JavaScript, so that
// thousands start quickly.
import { init } from 'fp8-dist';

const [start, end] = (process.env.LATE ?? '0:0').split(':').map(Number);
const rank = Number(process.env.RANK);
const late = (ms) => new Promise((resolve) => setTimeout(resolve, (ms * (rank + 1) * 7919) % 97));
await late(start);
const comm = await init();
for (let step = 0; step < 3; step++) {
  const x = new Float32Array(1000).fill(comm.rank + step);
  comm.world.allReduce(x).wait();
  const want = (comm.size * (comm.size - 1)) / 2 + comm.size * step;
  if (x.some((v) => v !== want)) throw new Error(`step ${step}: wrong sum ${x[0]}, expected ${want}`);
}
process.stdout.write(`${JSON.stringify({ running: process.pid })}\n`);
await late(end);
if (process.env.LEAVE !== 'no') await comm.close();
