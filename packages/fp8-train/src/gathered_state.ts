// The state of a run brought together from its ranks, for a checkpoint: rank 0 writes whole tensors, one after the other, and the
// ranks that hold their parts send them when their turn comes. Who sends what stands in a directory that all make together.
import { mergeShard, type Range, sizeOf } from 'fp8-core';
import type { Group } from 'fp8-dist';
import { type CheckpointFile, type SafetensorsDtype, tensorBytes, writeOrder } from './files/index.ts';
import { type HeldTensor, stateFiles } from './state.ts';

/** A part of a tensor: where it is and what it covers (null: everything). */
interface Part {
  rank: number;
  cut: { dim: 0 | 1; ranges: readonly Range[] } | null;
}

interface Entry {
  name: string;
  file: HeldTensor['file'];
  dtype: SafetensorsDtype;
  shape: number[];
  /** Parts that together are the tensor, each from the first rank that holds it. */
  parts: Part[];
}

/** An entry of one rank, as it travels. */
type Row = [
  name: string,
  file: HeldTensor['file'],
  dtype: SafetensorsDtype,
  shape: number[],
  dim: number,
  ends: number[],
];

export class GatheredState {
  private readonly world: Group;
  private readonly own: ReadonlyMap<string, HeldTensor>;
  private readonly entries: readonly Entry[];

  /** Makes the directory; all ranks together. @throws Error if the parts of a tensor do not make it up */
  constructor(world: Group, state: readonly HeldTensor[]) {
    this.world = world;
    this.own = new Map(state.map((t) => [t.name, t]));
    const rows = state.map(({ name, file, dtype, shape, shard }): Row => {
      return [name, file, dtype, [...shape], shard?.dim ?? -1, shard?.ranges.flat() ?? []];
    });
    this.entries = mergeRows(world.gatherObjects(rows));
  }

  /** For rank 0: the files of a checkpoint, whose tensors come in as they are written. */
  files(): CheckpointFile[] {
    return (['model', 'optimizer'] as const).map((file) => ({
      name: stateFiles[file],
      tensors: this.entriesOf(file).map((entry) => ({ ...entry, bytes: () => this.gather(entry) })),
      ...(file === 'model' ? { metadata: { format: 'pt' } } : {}),
    }));
  }

  /** For every other rank, while rank 0 writes: sends this rank's parts in their turn. */
  send(): void {
    for (const file of ['model', 'optimizer'] as const) {
      const entries = this.entriesOf(file);
      for (const i of writeOrder(entries)) {
        const { name, parts } = entries[i];
        if (parts.some((part) => part.rank === this.world.rank))
          this.world.send({ dtype: 'u8', data: this.held(name).read() }, 0).wait();
      }
    }
  }

  private entriesOf(file: HeldTensor['file']): Entry[] {
    return this.entries.filter((entry) => entry.file === file);
  }

  private held(name: string): HeldTensor {
    const tensor = this.own.get(name);
    if (!tensor) throw new Error(`internal: rank ${this.world.rank} holds no ${name}`);
    return tensor;
  }

  private gather(entry: Entry): Uint8Array {
    const { shape, parts } = entry;
    const numBytes = tensorBytes(entry.dtype, shape);
    if (!parts[0].cut) return this.receive(entry.name, parts[0].rank, numBytes);
    const whole = new Uint8Array(numBytes);
    for (const { rank, cut } of parts) {
      const { dim, ranges } = cut as NonNullable<Part['cut']>;
      const share = lengthOf(ranges) / shape[dim];
      const part = this.receive(entry.name, rank, numBytes * share);
      mergeShard({ shape, dim, ranges }, whole, part, numBytes / sizeOf(shape));
    }
    return whole;
  }

  private receive(name: string, rank: number, numBytes: number): Uint8Array {
    if (rank === this.world.rank) return this.held(name).read();
    const data = new Uint8Array(Math.round(numBytes));
    this.world.recv({ dtype: 'u8', data }, rank).wait();
    return data;
  }
}

const lengthOf = (ranges: readonly Range[]): number => ranges.reduce((n, [begin, end]) => n + end - begin, 0);

function mergeRows(rowsOfRanks: readonly Row[][]): Entry[] {
  const entries = new Map<string, Entry>();
  rowsOfRanks.forEach((rows, rank) => {
    for (const [name, file, dtype, shape, dim, ends] of rows) {
      const entry = entries.get(name) ?? { name, file, dtype, shape, parts: [] };
      entries.set(name, entry);
      const ranges = Array.from({ length: ends.length / 2 }, (_, i): Range => [ends[2 * i], ends[2 * i + 1]]);
      const cut = dim < 0 ? null : { dim: dim as 0 | 1, ranges };
      const isKnown = entry.parts.some((part) => !part.cut || part.cut.ranges.flat().join() === ends.join());
      if (!isKnown) entry.parts.push({ rank, cut });
    }
  });
  for (const entry of entries.values()) checkCover(entry);
  return [...entries.values()];
}

function checkCover({ name, shape, parts }: Entry): void {
  const { cut } = parts[0];
  if (!cut) return;
  const covered = parts.reduce((n, part) => n + lengthOf(part.cut?.ranges ?? []), 0);
  if (covered !== shape[cut.dim])
    throw new Error(`internal: ranks hold ${covered} of ${shape[cut.dim]} rows or columns of ${name} [${shape}]`);
}
