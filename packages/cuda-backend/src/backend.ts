import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { type Backend, type NativeAddon, nativeBackend, type Profile, UserError } from 'fp8-core';

interface Description {
  error?: string;
  device: string;
  index: number;
  major: number;
  minor: number;
  multiprocessors: number;
  bytes: number;
  fp8: number;
  runtime: number;
  driver: number;
  /** Where cuBLASLt was found, and its version; empty if it was not. */
  cublaslt: string;
  cublasltError: string;
}

/** What captured graphs did: how often one was launched, took new arguments, had to be made. */
export interface GraphStats {
  launches: number;
  updates: number;
  instantiations: number;
}

/** Matrix products so far: by cuBLASLt in FP8, by cuBLASLt in other dtypes, by our own kernels. */
export interface GemmCounts {
  fp8: number;
  library: number;
  own: number;
}

interface Addon extends NativeAddon {
  describe(): Description;
  graphs(): GraphStats;
  useGraphs(on: number): void;
  gemms(): GemmCounts;
  ownGemm(on: number): void;
  times(): Profile;
  resetTimes(): void;
  races?(on: number, seed: number): void;
  faulty?(kind: string): void;
}

/** The CUDA backend adds what only a device can tell to the common interface. */
export interface CudaBackend extends Backend {
  readonly name: 'cuda';
  /** True for the simulated device. */
  readonly simulated: boolean;
  readonly device: string;
  /** Compute capability, for example 9.0. */
  readonly capability: string;
  /** FP8 tensor cores; without them FP8 operands are decoded to BF16. */
  readonly fp8: boolean;
  /** With FP8_CUDA_TIMES=1: calls and device milliseconds of each launch since the last reset. */
  profile?(): Profile;
  resetProfile?(): void;
  /** Where cuBLASLt was found; or what was looked for, and that our own products are used instead. */
  readonly cublaslt: string;
  graphs(): GraphStats;
  /** Whether launches between two host reads are sent as one CUDA graph; FP8_CUDA_GRAPH=1 starts with true. */
  useGraphs(on: boolean): void;
  gemms(): GemmCounts;
  /** True: products by our own kernels only. */
  ownGemm(on: boolean): void;
  /** Simulated device only: look for races, with threads and blocks in an order shuffled by `seed`. */
  races(on: boolean, seed?: number): void;
  /** Simulated device only: runs a kernel that is wrong on purpose (native/sim/faulty.cu). */
  faulty(kind: string): void;
}

const built = (name: string): string => fileURLToPath(new URL(`../build/${name}.node`, import.meta.url));

/** True when FP8_CUDA=sim asks for the simulated device. */
export const isSimulated = (): boolean => process.env.FP8_CUDA === 'sim';

/** Path of the addon that `cudaBackend` would load. */
export const cudaAddonPath = (): string => built(isSimulated() ? 'cuda_sim' : 'cuda_backend');

/** True when that addon has been built; it may still find no device. */
export const isCudaBackendBuilt = (): boolean => existsSync(cudaAddonPath());

let loaded: CudaBackend | undefined;

/**
 * The CUDA backend, or with FP8_CUDA=sim the simulated device; one for the process.
 * @throws UserError that says what was looked for and what to do: no addon, no driver, no device, one that is too old
 */
export function cudaBackend(): CudaBackend {
  loaded ??= load();
  return loaded;
}

const versionOf = (v: number): string => `${Math.floor(v / 1000)}.${Math.floor((v % 1000) / 10)}`;

function load(): CudaBackend {
  const path = cudaAddonPath();
  const build = `node packages/cuda-backend/build.mjs --${isSimulated() ? 'sim' : 'device'}`;
  const other = isSimulated() ? '' : '; or use --device cpu, or FP8_CUDA=sim for the simulated device';
  if (!existsSync(path)) {
    const needs = isSimulated() ? 'a C++ compiler' : 'nvcc of the CUDA toolkit, 12.0 or newer';
    throw new UserError(`device cuda: ${path} is not there; run \`${build}\` (needs ${needs})${other}`);
  }
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(path) as Addon;
  } catch (error) {
    throw new UserError(
      `device cuda: ${path} does not load (${(error as Error).message.split('\n')[0]}); run \`${build}\` again`,
    );
  }
  const about = addon.describe();
  if (about.error) throw new UserError(`device cuda: ${about.error}${other}`);
  const capability = `${about.major}.${about.minor}`;
  const fp8 = about.fp8 !== 0;
  return {
    ...nativeBackend(addon),
    name: 'cuda',
    simulated: isSimulated(),
    device: about.device,
    capability,
    fp8,
    describe() {
      const gigabytes = isSimulated() ? '' : `, ${(about.bytes / 2 ** 30).toFixed(0)} GiB`;
      const units = fp8 ? 'FP8 tensor cores' : 'no FP8 tensor cores: FP8 operands are decoded to BF16';
      return `cuda (${about.device}${gigabytes}, compute capability ${capability}, ${units}, CUDA ${versionOf(about.runtime)})`;
    },
    ...(process.env.FP8_CUDA_TIMES === '1' ? { profile: addon.times, resetProfile: addon.resetTimes } : {}),
    cublaslt: about.cublaslt || `${about.cublasltError}; until then our own, slower products are used`,
    graphs: addon.graphs,
    useGraphs: (on) => addon.useGraphs(on ? 1 : 0),
    gemms: addon.gemms,
    ownGemm: (on) => addon.ownGemm(on ? 1 : 0),
    races(on, seed = 1) {
      if (!addon.races) throw new Error('internal: only the simulated device has a race mode');
      addon.races(on ? 1 : 0, seed);
    },
    faulty(kind) {
      if (!addon.faulty) throw new Error('internal: only the simulated device has faulty kernels');
      addon.faulty(kind);
    },
    // A chunk of logits then fills the device, and the head's weight and gradient are read once for thousands of rows.
    scratchBytes: isSimulated() ? undefined : 512 * 2 ** 20,
    rowUnit: 64,
    castsBothWays: fp8,
    keepsCasts: true,
    // Half the bytes of the widest tensor that a step writes and reads; e4m3 has 3 of bf16's 7 bits.
    wideGradient: 'bf16',
  };
}
