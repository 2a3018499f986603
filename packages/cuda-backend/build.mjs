// Builds the CUDA addon and its simulated twin from the same .cu files. Plain Node; no node-gyp, no CMake.
//
//   node build.mjs                 what this machine can: the device addon where nvcc is found, the simulator where g++ is
//   node build.mjs --sim           build/cuda_sim.node      with the host C++ compiler
//   node build.mjs --device        build/cuda_backend.node  with nvcc, for sm_80, sm_89, sm_90a and PTX
//   node build.mjs --report        compiles for the device and prints what each kernel uses: registers, shared memory, spills
//   --verbose                      says what it does
//   FP8_CUDA_ARCHS=90a             for one chip only: a quarter of the time
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { findCompiler, findHostCompiler } from '../../tools/lib/compiler.mjs';
import { NativeBuild } from '../../tools/lib/native_build.mjs';

const build = new NativeBuild(import.meta.url);
const has = (flag) => process.argv.includes(flag);

/** nvcc: NVCC, CUDA_HOME, CUDA_PATH, the usual folders, PATH. */
function findNvcc() {
  if (process.env.NVCC) return findCompiler([process.env.NVCC]);
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda'].filter(Boolean);
  return findCompiler([...homes.map((home) => join(home, 'bin/nvcc')), 'nvcc']);
}

/** Compiles what all devices share and the files of one folder, the large ones first; objects in the files' order. */
async function compile(tool, folder) {
  const files = [...build.sources(/\.(cu|cc)$/), ...build.sources(/\.(cu|cc)$/, folder)];
  const objects = await build.compile(
    tool,
    files.toSorted((a, b) => statSync(b).size - statSync(a).size),
  );
  return files.map((file) => objects.get(file));
}

async function buildSim() {
  const compiler = findHostCompiler();
  if (!compiler) build.fail('no C++ compiler (g++, clang++, c++; or set CXX), so no simulated device');
  build.say(`simulator: ${compiler.version}`);
  const common = [
    '-std=c++17',
    '-O2',
    '-fPIC',
    '-ffp-contract=off',
    '-fno-math-errno',
    '-fvisibility=hidden',
    '-Wall',
    '-Wextra',
    '-Wno-unknown-pragmas',
    '-Wno-unused-function',
    '-DFP8_SIM',
    ...build.includes(),
  ];
  const flags = (file) => [...common, ...(file.endsWith('.cu') ? ['-x', 'c++'] : [])];
  const objects = await compile({ compiler, flags, kind: 'sim' }, 'sim');
  await build.link(compiler, 'cuda_sim.node', ['-shared', '-Wl,-z,nodelete', ...objects, '-lpthread', '-ldl']);
}

/** One binary for Ampere, Ada and Hopper, and PTX for what comes after; or only what FP8_CUDA_ARCHS=90a names. */
const targets = process.env.FP8_CUDA_ARCHS?.split(',') ?? ['80', '89', '90a'];

async function buildDevice({ linked }) {
  const compiler = findNvcc();
  if (!compiler)
    build.fail('no nvcc (NVCC, CUDA_HOME, CUDA_PATH, /usr/local/cuda, PATH); install the CUDA toolkit 12.0 or newer');
  build.say(`device: ${compiler.version}`);
  const common = [
    '-std=c++17',
    '-O3',
    '-fmad=false', // what may be contracted says so: math::mulAdd
    '--Werror=all-warnings',
    '-Xptxas=-v',
    '-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unused-function,-Wno-unknown-pragmas,-ffp-contract=off',
    ...targets.flatMap((t) => [`-gencode=arch=compute_${t},code=sm_${t}`]),
    ...(process.env.FP8_CUDA_ARCHS ? [] : ['-gencode=arch=compute_90,code=compute_90']),
    ...build.includes(),
  ];
  // Files of C++ include device.h too.
  const flags = (file) => [...common, ...(file.endsWith('.cc') ? ['-x', 'cu'] : [])];
  const objects = await compile({ compiler, flags, kind: 'device' }, 'cuda');
  const runtime = ['-cudart=static', '-Xlinker=-z,nodelete'];
  if (linked) await build.link(compiler, 'cuda_backend.node', ['-shared', ...runtime, ...objects, '-ldl']);
  return objects.map((object) => readFileSync(object.replace(/\.o$/, '.txt'), 'utf8')).join('\n');
}

/** What ptxas said, one line a kernel and target. */
function report(text) {
  let entry = null;
  let spills = 0;
  for (const line of text.split('\n')) {
    const compiling = /Compiling entry function '(\w+)' for '(\w+)'/.exec(line);
    if (compiling) entry = { kernel: compiling[1], target: compiling[2] };
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    if (frame && entry) Object.assign(entry, { stack: Number(frame[1]), spills: Number(frame[2]) + Number(frame[3]) });
    const used = /Used (\d+) registers(?:.*?(\d+) bytes smem)?/.exec(line);
    if (used && entry) {
      const { kernel, target, stack, spills: bytes } = entry;
      if (bytes) spills++;
      console.log(
        JSON.stringify({
          kernel,
          target,
          registers: Number(used[1]),
          shared: Number(used[2] ?? 0),
          stack,
          spills: bytes,
        }),
      );
      entry = null;
    }
  }
  return spills;
}

const both = !has('--sim') && !has('--device') && !has('--report');
if (has('--sim') || (both && findHostCompiler())) await build.locked('sim', buildSim);
if (has('--device') || (both && findNvcc())) await build.locked('device', () => buildDevice({ linked: true }));
if (has('--report'))
  await build.locked('device', async () => {
    if (report(await buildDevice({ linked: false })) > 0) process.exitCode = 1;
  });
