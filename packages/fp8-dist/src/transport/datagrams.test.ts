import { createSocket } from 'node:dgram';
import { expect, it } from 'vitest';
import { newJobKey } from '../rendezvous/security.ts';
import { bindDatagrams, type Datagrams } from './datagrams.ts';

const heard = (d: Datagrams, n: number) =>
  new Promise<string[]>((resolve) => {
    const list: string[] = [];
    d.onMessage = (m, from) => {
      list.push(`${from}: ${m}`);
      if (list.length === n) resolve(list);
    };
  });

it('datagrams of members come through once; a stranger, another job, an old start and a repeat do not', async () => {
  const key = newJobKey();
  const all = await Promise.all(Array.from({ length: 5 }, () => bindDatagrams('127.0.0.1')));
  const [zero, one, otherKey, otherStart, otherRank] = all;
  const endpoints = [zero.endpoint, one.endpoint];
  const job = { key, generation: 7, endpoints };
  zero.join({ ...job, rank: 0 });
  one.join({ ...job, rank: 1 });
  otherKey.join({ ...job, rank: 1, key: newJobKey() });
  otherStart.join({ ...job, rank: 1, generation: 6 });
  // A member may not speak for another rank: it holds the key, but its datagrams are of another address book.
  otherRank.join({ ...job, rank: 2, endpoints: [zero.endpoint, one.endpoint, null] });

  // Records what rank 1 says, on its way to rank 0.
  const tap = createSocket('udp4');
  await new Promise<void>((resolve) => tap.bind(0, '127.0.0.1', resolve));
  const recorded = new Promise<Buffer>((resolve) => tap.once('message', resolve));
  one.join({ ...job, rank: 1, endpoints: [`127.0.0.1:${tap.address().port}`, one.endpoint] });
  one.send(0, Buffer.from('first'));
  const record = await recorded;
  one.join({ ...job, rank: 1 });

  const got = heard(zero, 2);
  const to = Number(zero.endpoint.split(':')[1]);
  const damaged = Buffer.from(record);
  damaged[damaged.length - 20] ^= 1;
  for (const bytes of [damaged, Buffer.alloc(10), Buffer.alloc(9000), record, record, record]) {
    await new Promise((resolve) => tap.send(bytes, to, '127.0.0.1', resolve));
  }
  otherKey.send(0, Buffer.from('key'));
  otherStart.send(0, Buffer.from('start'));
  otherRank.send(0, Buffer.from('rank'));
  one.send(0, Buffer.from('second'));
  expect(await got).toEqual(['1: first', '1: second']);
  // The two repeats, the damaged, the short, the long, and three strangers; loopback keeps order, so all are in.
  expect(zero.refused).toBe(8);
  tap.close();
  for (const d of all) d.close();
});
