import { join } from 'node:path';
import { type Module, sizeOf, UserError } from 'fp8-core';
import { type Communicator, initializeModelParallel, maxNumbers, Mesh, readEnvironment, sumNumbers } from 'fp8-dist';
import { checkWorld } from './layout.ts';
import type { RunConfig } from './run_config.ts';

/** Thrown on ranks that stop because another one failed; that one has the reason. */
export class OtherRankFailed extends UserError {
  override name = 'OtherRankFailed';
}

/** The ranks that train together, as a run sees them; one rank is a job of one. */
export class Ranks {
  readonly mesh: Mesh;
  private readonly comm: Communicator | null;
  /** True after `together` has thrown, on all ranks. */
  haveFailed = false;

  private constructor(mesh: Mesh, comm: Communicator | null) {
    this.mesh = mesh;
    this.comm = comm;
  }

  static alone(): Ranks {
    return new Ranks(Mesh.single(), null);
  }

  /** Lays the ranks of a job out. @throws UserError with the equation if the world does not divide */
  static of(comm: Communicator, config: RunConfig): Ranks {
    checkWorld(comm.size, config);
    const { tp: tensor, pp: pipeline, virtual: virtualPipeline } = config;
    return new Ranks(initializeModelParallel(comm, { tensor, pipeline, virtualPipeline }), comm);
  }

  /** The rank that prints and writes. */
  get isFirst(): boolean {
    return this.mesh.world.rank === 0;
  }

  /** One line for people; null for one rank. */
  describe({ zero, sp }: Pick<RunConfig, 'zero' | 'sp'>): string | null {
    const { world, dp, tp } = this.mesh;
    if (world.size === 1) return null;
    const also = [tp.size > 1 && sp && 'sequence parallel', dp.size > 1 && zero > 0 && `ZeRO ${zero}`].filter(Boolean);
    return [`${world.size}: ${this.mesh.describe()}`, ...also].join(', ');
  }

  /** True on all ranks if it is on any. */
  any(flag: boolean): boolean {
    return this.largest([flag ? 1 : 0])[0] > 0;
  }

  /** The largest over ranks of each number; the same on all. */
  largest(values: readonly number[]): number[] {
    return maxNumbers(this.mesh.world, values);
  }

  /** The largest over ranks of each field. */
  largestOf<T extends object>(values: T): T {
    const keys = Object.keys(values) as (keyof T)[];
    const most = this.largest(keys.map((key) => values[key] as number));
    return Object.fromEntries(keys.map((key, i) => [key, most[i]])) as T;
  }

  /** Where tokens are kept for all ranks: in the run's folder, else in the job's (one machine), else nowhere. */
  sharedFolder(out: string | null): string | null {
    if (out !== null) return join(out, 'data');
    const folder = this.mesh.world.size > 1 ? readEnvironment().folder : null;
    return folder === null ? null : join(folder, 'data');
  }

  /**
   * Runs what may fail on some ranks and not on others, such as reading a file.
   * @throws the rank's own error, or `OtherRankFailed` where another's failed: none goes on alone
   */
  together<T>(fn: () => T): T {
    let result: T | undefined;
    let own: { error: unknown } | null = null;
    try {
      result = fn();
    } catch (error) {
      own = { error };
    }
    const failed = this.any(own !== null);
    this.haveFailed ||= failed;
    if (own) throw own.error;
    if (failed) throw new OtherRankFailed('another rank failed and says why');
    return result as T;
  }

  /** Rank 0 makes something first, then the others: for files that one rank writes and all read. */
  firstThenOthers<T>(make: () => T): T {
    const early = this.together(() => (this.isFirst ? make() : null));
    return this.together(() => early ?? make());
  }

  /** Parameters of the whole model, each once. */
  countParameters(model: Module): number {
    const own = model.parameters().reduce((sum, p) => (p.tied === 'last' ? sum : sum + sizeOf(p.wholeShape)), 0);
    return sumNumbers(this.mesh.pp, [own])[0];
  }

  /** Tells the other ranks how far this one is, for their messages. */
  setStep(step: number): void {
    this.comm?.setStep(step);
  }

  /** Bytes of this rank so far, headers included. */
  traffic(): { bytesSent: number; bytesReceived: number } {
    const { sent, received } = this.comm?.traffic() ?? { sent: 0, received: 0 };
    return { bytesSent: sent, bytesReceived: received };
  }
}
