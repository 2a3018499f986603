// F4, F5 on real sockets of one process: connections cut through a proxy, silence on the wire. Between machines: network.test.ts.
import { describe, expect, it } from 'vitest';
import { post, wrongAt } from '../engines.ts';
import { times } from '../jobs.ts';
import { pairOverTcp } from '../wire.ts';

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe('on the wire', { timeout: times(120_000, 3_600_000) }, () => {
  it('connections cut under load lose, double and shift nothing', async () => {
    const pair = await pairOverTcp();
    let cuts = 0;
    let id = 0;
    const wanted = times(40, 300);
    const deadline = performance.now() + times(60_000, 600_000);
    while (cuts < wanted && performance.now() < deadline) {
      id++;
      const n = id % 4 === 0 ? 400_000 : 3000 + id;
      const datas = pair.engines.map((e) => post(e, id, n));
      const mine = id;
      for (
        let k = 0;
        !pair.done.every((d) => d.has(mine)) && !pair.failures.some(Boolean) && performance.now() < deadline;
        k++
      ) {
        if (k % 3 === 0) cuts += pair.proxies[k % 2].cut();
        await pause(n > 10_000 ? 40 : 5);
      }
      for (const data of datas) expect(wrongAt(data, mine), `operation ${mine}`).toBe(-1);
    }
    const repeated = pair.engines.map((e) => e.links[1 - e.rank]?.counters.repeated ?? 0);
    await pair.close();
    expect(pair.failures).toEqual([null, null]);
    expect(cuts).toBeGreaterThanOrEqual(wanted);
    // The control: without repeats these cuts would have lost frames.
    expect(repeated[0] + repeated[1]).toBeGreaterThan(0);
    console.log(`${cuts} cuts in ${id} all-reduces, ${repeated[0] + repeated[1]} frames sent again`);
  });

  it('a second of silence changes nothing; silence beyond the deadline is named', async () => {
    const pair = await pairOverTcp();
    let datas = pair.engines.map((e) => post(e, 1, 1000));
    while (!pair.done.every((d) => d.has(1))) await pause(5);
    for (const p of pair.proxies) p.hold(true);
    datas = pair.engines.map((e) => post(e, 2, 300_000));
    await pause(1000);
    for (const p of pair.proxies) p.hold(false);
    while (!pair.done.every((d) => d.has(2)) && !pair.failures.some(Boolean)) await pause(5);
    expect(pair.failures).toEqual([null, null]);
    for (const data of datas) expect(wrongAt(data, 2)).toBe(-1);

    for (const p of pair.proxies) p.hold(true);
    const start = performance.now();
    for (const e of pair.engines) post(e, 3, 1000, { timeoutMs: 1000 });
    while (!pair.failures.every(Boolean)) await pause(5);
    await pair.close();
    expect(performance.now() - start).toBeLessThan(4000);
    expect(pair.failures[0]?.message).toMatch(
      /allReduce\(sum, f32, 1000 elements\) #3 on world \(rank 0 of 2\): not done after 1\.\d s .* waiting for rank 1 at tcp:/,
    );
  });

  it('without repeats, cuts lose frames (control)', async () => {
    const pair = await pairOverTcp();
    for (const e of pair.engines) for (const link of e.links) if (link) Object.assign(link, { repeat() {} });
    for (let id = 1; id < 200 && !pair.failures.some(Boolean); id++) {
      for (const e of pair.engines) post(e, id, 3000 + id, { timeoutMs: 3000 });
      for (let k = 0; !pair.done.every((d) => d.has(id)) && !pair.failures.some(Boolean); k++) {
        if (k % 3 === 0) pair.proxies[k % 2].cut();
        await pause(5);
      }
    }
    await pair.close();
    expect(pair.failures.some((f) => f?.kind === 'timeout')).toBe(true);
  });
});
