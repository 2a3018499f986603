import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { type Backend, type NativeAddon, nativeBackend, type Profile, UserError } from 'fp8-core';

interface Addon extends NativeAddon {
  describe(): { isa: string; threads: number; error?: string };
  setThreads(threads: number): void;
  peakGflops(bf16: number, seconds: number): number;
  copyGBs(seconds: number): number;
}

/** The CPU backend adds what only a CPU can tell to the common interface. */
export interface CpuBackend extends Backend {
  readonly name: 'cpu';
  readonly isa: string;
  readonly threads: number;
  setThreads(threads: number): void;
  /** Multiply-add ceiling of this machine now, all threads, in GFLOP/s. */
  peakGflops(arithmetic: 'bf16' | 'f32', seconds?: number): number;
  /** Copy bandwidth now, all threads, in GB/s (bytes read + written). */
  copyGBs(seconds?: number): number;
  /** Calls and milliseconds of each kernel since the last reset. */
  profile(): Profile;
  resetProfile(): void;
}

const addonPath = fileURLToPath(new URL('../build/cpu_backend.node', import.meta.url));

let loaded: CpuBackend | undefined;

/** Path of the native addon for communication workers, which load it by themselves; null if it was not built. */
export const cpuBackendAddonPath = (): string | null => (existsSync(addonPath) ? addonPath : null);

/** True when the native addon has been built. */
export const isCpuBackendBuilt = (): boolean => existsSync(addonPath);

/**
 * The native CPU backend; one for the process.
 * @throws UserError if the addon was not built or does not load, or FP8_ISA names what this machine lacks
 */
export function cpuBackend(): CpuBackend {
  loaded ??= load();
  return loaded;
}

function load(): CpuBackend {
  if (!isCpuBackendBuilt()) {
    throw new UserError(
      'cpu-backend: the native addon is not built; run `npm run build:native` (needs a C++ compiler)',
    );
  }
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(addonPath) as Addon;
  } catch (error) {
    throw new UserError(
      `cpu-backend: the native addon does not load (${(error as Error).message.split('\n')[0]}); run \`npm run build:native\``,
    );
  }
  const about = addon.describe();
  if (about.error) throw new UserError(`cpu-backend: ${about.error}`);
  return {
    ...nativeBackend(addon),
    name: 'cpu',
    isa: about.isa,
    get threads() {
      return addon.describe().threads;
    },
    describe() {
      const { isa, threads } = addon.describe();
      return `cpu (${isa}, ${threads} thread${threads === 1 ? '' : 's'})`;
    },
    setThreads: addon.setThreads,
    peakGflops: (arithmetic, seconds = 0.2) => addon.peakGflops(arithmetic === 'bf16' ? 1 : 0, seconds),
    copyGBs: (seconds = 0.2) => addon.copyGBs(seconds),
    profile: addon.profile,
    resetProfile: addon.resetProfile,
  };
}
