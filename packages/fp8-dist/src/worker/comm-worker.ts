// The comm worker: owns every socket of a rank and runs its engine, while the main thread computes or sleeps. A blocked main
// thread sees no error event, no exit and no console output of a worker, so everything is caught here, put into the shared
// control words, and logged with writeSync.
import { writeSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { Engine } from '../engine/engine.ts';
import type { OpRequest } from '../engine/request.ts';
import { DistError } from '../errors.ts';
import { loadCommAddon, nativeMath } from '../math/native.ts';
import { plainMath } from '../math/plain.ts';
import { clock, Control, type Sleep, word } from './control.ts';
import { Liveness } from './liveness.ts';
import type { FromWorker, PostedOp, Region, ToWorker, WorkerOptions } from './messages.ts';
import { Recorder } from './recorder.ts';
import { wire, type Wired } from './wiring.ts';

const port = parentPort;
if (!port) throw new Error('internal: comm-worker.ts runs as a worker only');
const options = workerData as WorkerOptions;
const control = new Control(options.control);
const recorder = new Recorder(options.recorder);
const addon = loadCommAddon(options.addon);
const tell = (message: FromWorker): void => port.postMessage(message);
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

let wired: Wired | null = null;
let engine: Engine | null = null;
let liveness: Liveness | null = null;
let ending = false;
const slots = new Map<number, OpRequest>();

process.on('uncaughtException', (error) => broken(error));
process.on('unhandledRejection', (error) => broken(error as Error));

function broken(error: Error): void {
  if (ending) return;
  if (engine) engine.fail('worker', `the comm worker failed: ${error.stack ?? error}`, [engine.rank]);
  else control.fail(new DistError('worker', `the comm worker failed: ${error.stack ?? error}`));
}

/** Past the main thread, which may be blocked; a launcher that is gone must not stop what is left to do. */
function log(line: string): void {
  try {
    writeSync(2, `rank ${engine?.rank}: ${line}\n`);
  } catch {
    // nobody reads any more
  }
}

function viewOf(region: Region): Uint8Array {
  if (typeof region === 'number') {
    if (!addon) throw new Error('internal: a native tensor without the native addon');
    return new Uint8Array(addon.bytes(region));
  }
  return new Uint8Array(region.sab, region.offset, region.bytes);
}

function requestOf(op: PostedOp): OpRequest {
  return {
    ...op,
    segments: op.segments.map(viewOf),
    out: op.out?.map(viewOf) ?? null,
    scales: op.scales ? new Float32Array(op.scales) : new Float32Array(0),
  };
}

function failed(error: DistError): void {
  control.fail(error);
  // On the way out after a common farewell: a peer that is gone is no news.
  if (ending) return;
  if (options.flightFolder) {
    try {
      const path = recorder.dump(options.flightFolder, engine?.rank ?? -1, {
        kind: error.kind,
        message: error.message,
        ranks: error.ranks,
      });
      log(`flight record in ${path}`);
    } catch (problem) {
      log(`no flight record: ${(problem as Error).message}`);
    }
  }
  liveness?.abort(error);
}

/** Where the main thread sleeps: in an operation of this worker's, or on the lane. */
function sleepingIn(): Sleep | null {
  const slot = Atomics.load(control.words, word.waitingOn) - 1;
  const request = slot >= 0 ? slots.get(slot) : undefined;
  const op = request && engine?.active.find((o) => o.request === request);
  if (!op || !engine) return control.getSleep();
  const { group, channel, opSeq, members } = op.request;
  const absent = op.awaited().flatMap(({ rank, entered }) => (entered ? [] : [rank]));
  const since = clock() - Math.round(performance.now() - op.startedAt);
  return { group, channel, opSeq, members, absent, name: engine.opName(op), since };
}

async function start(): Promise<void> {
  wired = await wire(options.wiring, addon);
  const { data, generation } = wired;
  engine = new Engine({
    transport: data,
    generation,
    math: addon ? nativeMath(addon) : plainMath,
    pool: wired.pool,
    arenaOf: wired.arenaOf,
    isMappedBy: wired.isMappedBy,
    onDone: (request) => {
      slots.delete(request.id);
      const { sent, received } = (engine as Engine).traffic();
      control.setTraffic(sent, received);
      control.finish(request.id);
    },
    onFailed: failed,
    onControl: (frame) => liveness?.receive(frame),
    record: (event, op) => recorder.record(event, op),
    statusOf: (rank) => liveness?.statusOf(rank) ?? '',
    otherwiseIn: () => control.getSleep()?.name ?? null,
  });
  if (wired.control !== data) wired.control.onMessage = (parts, from) => (engine as Engine).message(parts, from);
  if (wired.datagrams) wired.datagrams.onMessage = (message, from) => (engine as Engine).message([message], from);
  liveness = new Liveness({
    engine,
    transport: wired.control,
    datagrams: wired.datagrams,
    control,
    deadAfterMs: options.deadAfterMs,
    pidOf: wired.pidOf,
    orphaned: wired.removeFolder,
    sleepingIn,
    hasPosted: (group, channel, opSeq) =>
      (engine as Engine).hasPosted(group, channel, opSeq) || recorder.has(group, channel, opSeq),
  });
  if (wired.control !== data) wired.control.start();
  wired.events.onDown = (rank) => liveness?.wentDown(rank);
  wired.events.onUp = (rank) => liveness?.cameUp(rank);
  const { addresses, lane } = wired;
  tell({ ready: { rank: engine.rank, size: engine.size, generation, addresses, lane } });
}

/** Leaves: with `drain`, once the peers have acknowledged everything. */
async function stop(how: 'drain' | 'now'): Promise<void> {
  if (ending) return;
  ending = true;
  const limit = performance.now() + (how === 'drain' ? 60_000 : 0);
  const owesNobody = () => engine?.links.every((link, rank) => !link || link.idle || !liveness?.isHere(rank));
  while (engine && !engine.failure && !owesNobody() && performance.now() < limit) {
    await pause(5);
    engine.flushAll();
  }
  // A process that just ends says nothing: the others shall see it end, and its launcher first.
  if (engine && !engine.failure && how === 'drain') {
    engine.flushAll(true);
    liveness?.bye();
  }
  liveness?.stop();
  await pause(how === 'drain' ? 30 : 20);
  await Promise.race([wired?.close(), pause(1000)]);
  tell({ closed: true });
  port?.close();
  Atomics.store(control.words, word.closed, 1);
  Atomics.notify(control.words, word.closed);
}

port.on('message', (message: ToWorker) => {
  if ('stop' in message) return void stop(message.stop);
  if (!engine || engine.failure) return;
  if ('failed' in message) {
    const { kind, message: text, ranks } = message.failed;
    return engine.fail(kind, text, ranks);
  }
  if ('expired' in message) {
    const { name, ms, members, absent } = message.expired;
    const awaited = (absent.length ? absent : members.filter((r) => r !== engine?.rank)).map((rank) => ({
      rank,
      entered: absent.length === 0,
    }));
    const progress = absent.length
      ? `${members.length - absent.length} of ${members.length} ranks have entered`
      : 'data is missing';
    return engine.expire(name, ms, progress, awaited);
  }
  try {
    const request = requestOf(message.op);
    slots.set(request.id, request);
    engine.post(request);
  } catch (error) {
    broken(error as Error);
  }
});

start().catch((error: Error) => {
  void wired?.close();
  const kind = error instanceof DistError ? error.kind : 'worker';
  tell({ failed: { kind, message: error.message, user: error.name === 'UserError' || 'code' in error } });
  port.close();
});
