// S1, S5: impostors and floods against ranks at work. Two engines reduce over CURVE all the while, and every sum is checked.
// FAULTS=all: 1000 tries of each class.
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { connect as connectTcp, createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as zmq from 'zeromq';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { encodeHeader, type Header, headerBytes } from '../../src/link/frame.ts';
import type { Member } from '../../src/rendezvous/member.ts';
import { pack, unpack } from '../../src/rendezvous/messages.ts';
import { curveKeys, newJobKey } from '../../src/rendezvous/security.ts';
import { meet, version } from '../../src/rendezvous/store.ts';
import { serveZap, type ZapHandler } from '../../src/rendezvous/zap.ts';
import { bindInbox } from '../../src/transport/zeromq.ts';
import { post, wrongAt } from '../engines.ts';
import { freePort } from '../processes.ts';
import { ownTmp, times } from '../jobs.ts';
import { pairOverTcp } from '../wire.ts';

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const tries = times(20, 1000);
const keys = curveKeys(newJobKey());
const own = { curveServerKey: keys.publicKey, curvePublicKey: keys.publicKey, curveSecretKey: keys.secretKey };
const portOf = (endpoint: string) => Number(endpoint.split(':').pop());

let zap: ZapHandler;
beforeAll(async () => {
  zap = await serveZap(zmq, keys.publicKey);
});
afterAll(async () => {
  console.log(`${zap.refused} handshakes refused by key`);
  await zap.close();
  rmSync(ownTmp, { recursive: true, force: true });
});

/** A pair of ranks that reduces without pause until told to stop. */
async function workingPair() {
  const pair = await pairOverTcp(keys);
  let going = true;
  let steps = 0;
  let wrong = 0;
  const work = (async () => {
    while (going && !pair.failures.some(Boolean)) {
      const id = steps + 1;
      const datas = pair.engines.map((e) => post(e, id, 5000));
      while (!pair.done.every((d) => d.has(id)) && !pair.failures.some(Boolean)) await pause(0);
      if (!pair.failures.some(Boolean)) for (const data of datas) if (wrongAt(data, id) >= 0) wrong++;
      steps++;
    }
  })();
  return {
    ...pair,
    endpoint: pair.inboxes[0].endpoint,
    steps: () => steps,
    /** Ends it. What the ranks made of it: nothing may be wrong, nothing may have reached their decoders. */
    async stop() {
      going = false;
      await work;
      const dropped = pair.engines.map((e) => e.dropped.malformed + e.dropped.foreign);
      await pair.close();
      return { steps, wrong, dropped: dropped[0] + dropped[1], failures: pair.failures };
    },
  };
}

const sound = { wrong: 0, dropped: 0, failures: [null, null] };

describe('strangers', { timeout: times(120_000, 1_800_000) }, () => {
  const stranger = zmq.curveKeyPair();
  const impostors: [string, ConstructorParameters<typeof zmq.Push>[0]][] = [
    ['no mechanism', {}],
    ['PLAIN', { plainUsername: 'root', plainPassword: 'root' }],
    ['an unknown key', { ...own, curvePublicKey: stranger.publicKey, curveSecretKey: stranger.secretKey }],
    ['the key of another server', { ...own, curveServerKey: curveKeys(newJobKey()).publicKey }],
    ['the public key without its secret', { ...own, curveSecretKey: stranger.secretKey }],
  ];

  async function knock(endpoint: string, options: ConstructorParameters<typeof zmq.Push>[0], count: number) {
    for (let i = 0; i < count; i += 10) {
      const sockets = Array.from({ length: Math.min(10, count - i) }, () => {
        const s = new zmq.Push({ linger: 0, sendTimeout: 0, reconnectInterval: 1000, ...options });
        s.connect(endpoint);
        s.send(Buffer.alloc(headerBytes, 7)).catch(() => {});
        return s;
      });
      await pause(60);
      for (const s of sockets) s.close();
    }
  }

  it.each(impostors)('with %s get nothing through', async (_, options) => {
    const pair = await workingPair();
    await knock(pair.endpoint, options, tries);
    expect(await pair.stop()).toMatchObject(sound);
  });

  it('with the right key do (control)', async () => {
    const pair = await workingPair();
    await knock(pair.endpoint, own, 20);
    expect((await pair.stop()).dropped).toBeGreaterThan(0);
  });

  it('who replay a recorded handshake get nothing through', async () => {
    const pair = await workingPair();
    // What a member says when it connects, recorded on the way.
    let recorded = Buffer.alloc(0);
    const tap = createServer((a) => {
      const b = connectTcp(portOf(pair.endpoint), '127.0.0.1');
      a.on('data', (d) => {
        recorded = Buffer.concat([recorded, d as Buffer]);
        b.write(d);
      });
      b.on('data', (d) => a.write(d));
      for (const s of [a, b]) s.on('error', () => {}).on('close', () => [a, b].map((x) => x.destroy()));
    });
    await new Promise<void>((resolve) => tap.listen(0, '127.0.0.1', resolve));
    const member = new zmq.Push({ linger: 0, ...own });
    member.connect(`tcp://127.0.0.1:${(tap.address() as { port: number }).port}`);
    await member.send(Buffer.alloc(headerBytes, 7));
    while (!pair.engines[0].dropped.malformed) await pause(5);
    member.close();
    tap.close();
    expect(recorded.length).toBeGreaterThan(400);
    for (let i = 0; i < tries; i += 20) {
      const sockets = Array.from({ length: 20 }, () => {
        const s = connectTcp(portOf(pair.endpoint), '127.0.0.1', () => s.write(recorded));
        return s.on('error', () => {}).resume();
      });
      await pause(60);
      for (const s of sockets) s.destroy();
    }
    // One message came in: the one that was recorded, when its sender sent it.
    expect(await pair.stop()).toMatchObject({ ...sound, dropped: 1 });
  });

  it('with the right key, but frames of an earlier start of the job, are dropped and counted', async () => {
    const pair = await workingPair();
    const member = new zmq.Push({ linger: 0, ...own });
    member.connect(pair.endpoint);
    const header: Header = {
      kind: 'announce',
      carrier: 'inline',
      from: 1,
      to: 0,
      generation: 2,
      seq: 1,
      ack: 0,
      group: 0,
      channel: 0,
      opSeq: 1,
      chunk: 0,
      slot: 0,
      payloadBytes: 0,
    };
    for (let i = 0; i < tries; i++) {
      const old = Buffer.alloc(headerBytes);
      encodeHeader(old, { ...header, seq: i + 1, opSeq: i + 1 }, null);
      await member.send(old);
    }
    while (pair.engines[0].dropped.foreign < tries) await pause(5);
    member.close();
    expect(await pair.stop()).toMatchObject({ ...sound, dropped: tries });
  });

  it('with the right key, but of another job or for a rank that is there, are refused at the rendezvous', async () => {
    const store = `tcp://127.0.0.1:${await freePort()}`;
    const member = (rank: number): Member => ({
      rank,
      pid: 1000 + rank,
      host: 'h',
      hostname: 'n',
      ipcData: null,
      ipcControl: null,
      tcpData: null,
      tcpControl: null,
      udp: null,
      arenaFd: null,
      arenaBytes: null,
      laneFd: null,
    });
    const job = (rank: number) => ({ rank, size: 3, store, job: 'this', keys, timeoutMs: 600_000 });
    const all = [0, 1].map((rank) => meet(zmq, job(rank), member(rank)));
    await pause(200);
    const counts: Record<string, number> = { other: 0, taken: 0 };
    for (const kind of ['other', 'taken']) {
      const socket = new zmq.Dealer({ linger: 0, ...own });
      socket.connect(store);
      for (let i = 0; i < tries; i++) {
        const rank = kind === 'taken' ? 1 : 2;
        await socket.send(
          pack({ version, size: 3, job: kind === 'taken' ? 'this' : 'that', ...member(rank), pid: 6666 }),
        );
        const answer = unpack((await socket.receive())[0]) as { kind: string; reason: string };
        const expected = kind === 'taken' ? /rank 1 has already joined/ : /another job/;
        if (answer.kind === 'refused' && expected.test(answer.reason)) counts[kind]++;
      }
      socket.close();
    }
    all.push(meet(zmq, job(2), member(2)));
    const tables = (await Promise.all(all)).map((r) => r.table);
    await Promise.all((await Promise.all(all)).map((r) => r.ready({ arenas: [], lanes: [] })));
    expect(counts).toEqual({ other: tries, taken: tries });
    for (const t of tables) expect(t.members.map((m) => m.pid)).toEqual([1000, 1001, 1002]);
  });

  it.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)(
    'who are another user cannot reach the sockets of a job on this machine',
    async () => {
      const folder = mkdtempSync(join(dirname(ownTmp), 'fp8t-'));
      const inbox = await bindInbox(zmq, `ipc://${folder}/d0`, null);
      const knocks = (count: number) =>
        new Promise<string>((resolve) => {
          const program = `let n = {}, left = ${count};
            const one = () => { const s = require('net').connect(${JSON.stringify(`${folder}/d0`)});
              const end = (what) => { n[what] = (n[what] ?? 0) + 1; s.destroy(); --left ? one() : console.log(JSON.stringify(n)); };
              s.on('connect', () => end('in')); s.on('error', (e) => end(e.code)); };
            one();`;
          const child = spawn(process.execPath, ['-e', program], { uid: 65_534, gid: 65_534, cwd: '/', env: {} });
          let out = '';
          child.stdout.on('data', (d) => {
            out += d;
          });
          child.on('close', () => resolve(out.trim()));
        });
      expect(await knocks(tries)).toBe(JSON.stringify({ EACCES: tries }));
      // The control: in a folder that others may enter, to a socket they may write to, they would come in.
      chmodSync(folder, 0o777);
      chmodSync(`${folder}/d0`, 0o777);
      expect(await knocks(5)).toBe(JSON.stringify({ in: 5 }));
      inbox.socket.close();
      rmSync(folder, { recursive: true });
    },
  );
});

function flood(
  port: number,
  kind: string,
  count: number,
  seconds = 30,
  signal?: AbortSignal,
): Promise<{ closed: number; lastMs: number }> {
  return new Promise((resolve, reject) => {
    const program = fileURLToPath(new URL('../ranks/flood.mjs', import.meta.url));
    const child = spawn(process.execPath, [program, `${port}`, kind, `${count}`], {
      env: { ...process.env, NODE_OPTIONS: '', FLOOD_SECONDS: `${seconds}` },
      stdio: ['ignore', 'pipe', 'inherit'],
      signal,
    });
    child.on('error', reject);
    let out = '';
    child.stdout.on('data', (d) => {
      out += d;
    });
    child.on('close', () => (out ? resolve(JSON.parse(out)) : reject(new Error(`flood of ${kind} failed`))));
  });
}

describe('floods', { timeout: 600_000 }, () => {
  it.each([
    ['idle', 600],
    ['drip', 100],
    ['halfOpen', 300],
    ['early', 3],
  ])('of %s connections (%i) are closed, take no memory and change no sum', async (kind, count) => {
    const pair = await workingPair();
    while (pair.steps() < 20) await pause(5);
    const rss = process.memoryUsage().rss;
    const [steps, start] = [pair.steps(), performance.now()];
    await pause(1500);
    const calm = (1000 * (pair.steps() - steps)) / (performance.now() - start);
    const [steps2, start2] = [pair.steps(), performance.now()];
    const { closed, lastMs } = await flood(portOf(pair.endpoint), kind, count, 30);
    const during = (1000 * (pair.steps() - steps2)) / (performance.now() - start2);
    const grown = process.memoryUsage().rss - rss;
    console.log(
      `${kind} × ${count}: closed after ${lastMs} ms; ${Math.round(calm)} steps/s before, ${Math.round(during)} meanwhile; ` +
        `${(grown / 2 ** 20).toFixed(1)} MiB more`,
    );
    expect(await pair.stop()).toMatchObject(sound);
    expect(closed).toBe(count);
    expect(grown).toBeLessThan(64 << 20);
  });

  it('of a frame of 8 GiB from a peer that was let in is closed at its header', async () => {
    const inbox = await bindInbox(zmq, 'tcp://127.0.0.1:*', null);
    const rss = process.memoryUsage().rss;
    expect((await flood(portOf(inbox.endpoint), 'bomb', 1)).closed).toBe(1);
    inbox.socket.close();
    expect(process.memoryUsage().rss - rss).toBeLessThan(64 << 20);
  });

  it('are held and stay open without our bounds (control)', async () => {
    const socket = new zmq.Pull({ linger: 0, handshakeInterval: 0 });
    await socket.bind('tcp://127.0.0.1:*');
    const port = portOf(socket.lastEndpoint as string);
    const rss = process.memoryUsage().rss;
    expect((await flood(port, 'idle', 10, 6)).closed).toBe(0);
    const enough = new AbortController();
    const bomb = flood(port, 'bomb', 1, 60, enough.signal).catch(() => null);
    while (process.memoryUsage().rss - rss < 65 << 20 && !enough.signal.aborted) {
      await pause(50);
      void bomb.then(() => enough.abort());
    }
    expect(process.memoryUsage().rss - rss).toBeGreaterThan(64 << 20);
    enough.abort();
    socket.close();
  });
});
