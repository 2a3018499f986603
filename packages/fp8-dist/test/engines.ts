// Engines of this thread, one a rank, over any transport: for tests of the engine, of the wire and of damage to frames.
import { Engine } from '../src/engine/engine.ts';
import type { OpRequest } from '../src/engine/request.ts';
import type { DistError } from '../src/errors.ts';
import { SlotPool } from '../src/link/slots.ts';
import { plainMath } from '../src/math/plain.ts';
import type { Transport } from '../src/transport/transport.ts';

export const generation = 7;

export interface Engines {
  engines: Engine[];
  /** Ids of the operations that each rank has done. */
  done: Set<number>[];
  failures: (DistError | null)[];
  stop(): void;
}

/** Starts an engine on each transport, with so many slots to send from. */
export function startEngines(transports: Transport[], slots = 16): Engines {
  const done = transports.map(() => new Set<number>());
  const failures: (DistError | null)[] = transports.map(() => null);
  const engines = transports.map(
    (transport, rank) =>
      new Engine({
        transport,
        generation,
        math: plainMath,
        pool: new SlotPool(slots),
        onDone: (request) => done[rank].add(request.id),
        onFailed: (error) => {
          failures[rank] = error;
        },
      }),
  );
  const timer = setInterval(() => {
    for (const engine of engines) engine.tick();
  }, 10);
  return { engines, done, failures, stop: () => clearInterval(timer) };
}

/** Posts a rank's part of an all-reduce of `n` elements over all ranks; `change` makes another request of it. */
export function post(engine: Engine, id: number, n: number, change: Partial<OpRequest> = {}): Float32Array {
  const { rank, size } = engine;
  const data = Float32Array.from({ length: n }, (_, i) => rank + id + (i % 17));
  engine.post({
    id,
    group: 0,
    groupName: 'world',
    channel: 0,
    opSeq: id,
    members: Array.from({ length: size }, (_, i) => i),
    code: 'allReduce',
    dtype: 'f32',
    reduce: 'sum',
    mean: false,
    steps: false,
    range: 'fit',
    root: 0,
    segments: [new Uint8Array(data.buffer)],
    out: null,
    bounds: Array.from({ length: size + 1 }, (_, i) => Math.floor((n * i) / size)),
    outBounds: null,
    shape: n,
    scales: new Float32Array(0),
    timeoutMs: 60_000,
    ...change,
  });
  return data;
}

/** Index of the first wrong element of what `post` returned, once all of `size` ranks are done; -1 if all are right. */
export const wrongAt = (data: Float32Array, id: number, size = 2): number =>
  data.findIndex((v, i) => v !== (size * (size - 1)) / 2 + size * (id + (i % 17)));
