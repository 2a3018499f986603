// Which ranks share which work: the world as a grid of tensor x data x pipeline parallel ranks, tensor fastest, as Megatron
// lays it out. rank = tp + T (dp + D pp), so that the ranks of a tensor group, which talk most, sit on one machine.
//
// A mesh is a value that is passed to layers, optimizer and trainer; nothing is global. In a group of one rank every collective
// does nothing, so the same code runs alone.
import { UserError } from 'fp8-core';
import type { Communicator } from './communicator.ts';
import { Group } from './group.ts';

/** Sizes of the parallel axes; data parallelism is what is left of the world. */
export interface ModelParallelSizes {
  /** Ranks that share each layer. */
  tensor?: number;
  /** Ranks that share the layers among them. */
  pipeline?: number;
  /** Model chunks a pipeline rank holds, for interleaved schedules; needs pipeline > 1. */
  virtualPipeline?: number;
}

interface MeshGroups {
  world: Group;
  tp: Group;
  dp: Group;
  pp: Group;
  model: Group;
  tpDp: Group;
  embedding: Group | null;
}

export class Mesh {
  /** All ranks of the job. */
  readonly world: Group;
  /** Ranks that hold parts of the same layers. */
  readonly tp: Group;
  /** Ranks that hold the same parts and see other data. */
  readonly dp: Group;
  /** Ranks that hold one layer after the other; group rank = stage. */
  readonly pp: Group;
  /** tp x pp: the ranks that together hold the model once. */
  readonly model: Group;
  /** tp x dp: the ranks of one stage, which share amaxes (Megatron's amax reduction group). */
  readonly tpDp: Group;
  /** First and last stage, which both hold a tied embedding; one rank where there is one stage; null on stages between. */
  readonly embedding: Group | null;
  /** Model chunks a pipeline rank holds; 1 without interleaving. */
  readonly virtualPipeline: number;

  constructor(groups: MeshGroups, virtualPipeline = 1) {
    this.world = groups.world;
    this.tp = groups.tp;
    this.dp = groups.dp;
    this.pp = groups.pp;
    this.model = groups.model;
    this.tpDp = groups.tpDp;
    this.embedding = groups.embedding;
    this.virtualPipeline = virtualPipeline;
  }

  /** The mesh of one rank. */
  static single(): Mesh {
    const [world, tp, dp, pp, model, tpDp, embedding] = [
      'world',
      'tp',
      'dp',
      'pp',
      'model',
      'tp x dp',
      'embedding',
    ].map((name) => Group.single(name));
    return new Mesh({ world, tp, dp, pp, model, tpDp, embedding });
  }

  /** "tp 2 x dp 2 x pp 2", axes of one left out. */
  describe(): string {
    const axes = [this.tp, this.dp, this.pp].filter((g) => g.size > 1).map((g) => `${g.name} ${g.size}`);
    return axes.join(' x ') || '1 rank';
  }

  // --- Megatron's names ----------------------------------------------------------------------------------------------------

  getTensorModelParallelGroup(): Group {
    return this.tp;
  }
  getTensorModelParallelWorldSize(): number {
    return this.tp.size;
  }
  getTensorModelParallelRank(): number {
    return this.tp.rank;
  }
  /** Global rank of the first rank of the tensor group. */
  getTensorModelParallelSrcRank(): number {
    return this.tp.ranks[0];
  }
  getDataParallelGroup(): Group {
    return this.dp;
  }
  getDataParallelWorldSize(): number {
    return this.dp.size;
  }
  getDataParallelRank(): number {
    return this.dp.rank;
  }
  getDataParallelSrcRank(): number {
    return this.dp.ranks[0];
  }
  getPipelineModelParallelGroup(): Group {
    return this.pp;
  }
  getPipelineModelParallelWorldSize(): number {
    return this.pp.size;
  }
  getPipelineModelParallelRank(): number {
    return this.pp.rank;
  }
  /** Global rank of the first stage. */
  getPipelineModelParallelFirstRank(): number {
    return this.pp.ranks[0];
  }
  getPipelineModelParallelLastRank(): number {
    return this.pp.ranks[this.pp.size - 1];
  }
  /** Global rank of the stage after this one, cyclic. */
  getPipelineModelParallelNextRank(): number {
    return this.pp.ranks[(this.pp.rank + 1) % this.pp.size];
  }
  getPipelineModelParallelPrevRank(): number {
    return this.pp.ranks[(this.pp.rank + this.pp.size - 1) % this.pp.size];
  }
  getVirtualPipelineModelParallelWorldSize(): number {
    return this.virtualPipeline;
  }
  getModelParallelGroup(): Group {
    return this.model;
  }
  getModelParallelSrcRank(): number {
    return this.model.ranks[0];
  }
  getEmbeddingGroup(): Group | null {
    return this.embedding;
  }
  /** Ranks whose windows are the same; `tpOnly` leaves out the data axis. */
  getAmaxReductionGroup(tpOnly = false): Group {
    return tpOnly ? this.tp : this.tpDp;
  }
  getTensorAndDataParallelGroup(): Group {
    return this.tpDp;
  }
  /** @param chunk model chunk on this rank; only chunk 0 of the first rank is the first stage */
  isPipelineFirstStage(chunk = 0): boolean {
    return this.pp.rank === 0 && chunk === 0;
  }
  /** @param chunk model chunk on this rank; default the last one */
  isPipelineLastStage(chunk = this.virtualPipeline - 1): boolean {
    return this.pp.rank === this.pp.size - 1 && chunk === this.virtualPipeline - 1;
  }
  isRankInEmbeddingGroup(): boolean {
    return this.embedding !== null;
  }
}

/** The communicator, or the world group alone. */
type World = Communicator | Group;

/**
 * Lays the ranks on a tensor x data x pipeline grid and makes its groups. Every rank must call it with the same sizes.
 * @throws UserError with the equation if the world is not a multiple of tensor x pipeline, or a size makes no sense
 * @see Narayanan et al. 2021 (arXiv:2104.04473)
 */
export function initializeModelParallel(comm: World, sizes: ModelParallelSizes = {}): Mesh {
  const world = comm instanceof Group ? comm : comm.world;
  const { tensor = 1, pipeline = 1, virtualPipeline = 1 } = sizes;
  for (const [name, size] of Object.entries({ tensor, pipeline, virtualPipeline })) {
    if (!Number.isInteger(size) || size < 1)
      throw new UserError(`model parallelism: ${name} is ${size}; need a whole number >= 1`);
  }
  if (virtualPipeline > 1 && pipeline === 1)
    throw new UserError(`model parallelism: virtualPipeline ${virtualPipeline} needs pipeline > 1`);
  const data = world.size / (tensor * pipeline);
  if (!Number.isInteger(data)) {
    throw new UserError(
      `model parallelism: world size ${world.size} = tensor ${tensor} x pipeline ${pipeline} x data ${Number(data.toFixed(3))}; data must be whole, so run a multiple of ${tensor * pipeline} ranks`,
    );
  }
  const t = world.rank % tensor;
  const d = Math.floor(world.rank / tensor) % data;
  const p = Math.floor(world.rank / (tensor * data));
  const isEnd = p === 0 || p === pipeline - 1;
  const split = (name: string, color: number | null): Group | null => world.split(color, world.rank, name);
  const groups = {
    world,
    tp: split('tp', d + data * p) as Group,
    dp: split('dp', t + tensor * p) as Group,
    pp: split('pp', t + tensor * d) as Group,
    model: split('model', d) as Group,
    tpDp: split('tp x dp', p) as Group,
    embedding: split('embedding', isEnd ? t + tensor * d : null),
  };
  return new Mesh(groups, virtualPipeline);
}
