// Builds the native addon: every native/*.cc into build/cpu_backend.node. Plain Node and a C++ compiler; no node-gyp, no Python.
//
//   node build.mjs [--verbose]            the addon
//   node build.mjs --bench [--verbose]    build/gemm_bench and other native/*_bench.cc, as programs
//
// The file name's ending picks the instruction set (see `sets`); isa.h decides at run time what may be called.
//
// Link order matters: an inline function that two objects did not inline exists in both, and the linker keeps the FIRST.
// Objects are therefore linked from the baseline upwards, so that no baseline code ever runs an AVX-512 copy.
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { findHostCompiler, hostCompilers } from '../../tools/lib/compiler.mjs';
import { NativeBuild } from '../../tools/lib/native_build.mjs';

/** Per-file instruction sets, from the baseline up; the position is also the link order. */
const sets = [
  { suffix: '.cc', flags: [] },
  { suffix: '_avx2.cc', flags: ['-mavx2', '-mfma', '-mf16c'] },
  { suffix: '_avx512.cc', flags: ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma', '-mf16c'] },
  {
    suffix: '_avx512bf16.cc',
    flags: ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mavx512bf16', '-mavx512vbmi', '-mfma', '-mf16c'],
  },
];
const common = [
  '-std=c++17',
  '-O3',
  '-fPIC',
  '-fno-trapping-math',
  '-fno-math-errno',
  '-ffp-contract=off',
  '-fvisibility=hidden',
  '-Wall',
  '-Wextra',
  '-Wno-psabi',
  '-Wno-unknown-pragmas',
  '-Wno-maybe-uninitialized', // false alarms inside gcc 12's own avx512fintrin.h
];
const setOf = (file) => sets.findLastIndex(({ suffix }) => file.endsWith(suffix));

const build = new NativeBuild(import.meta.url);
const compiler = findHostCompiler();
if (!compiler) build.fail(`no C++ compiler (tried ${hostCompilers().join(', ')}); install g++ or clang++, or set CXX`);
build.say(`using ${compiler.version}`);

// The same flags for the addon and the programs, so that they share their objects.
const includes = build.includes([build.shared]);
const flags = (file) => [...common, ...sets[setOf(file)].flags, ...includes];

/** The objects of these files in link order; the slow instruction sets are compiled first. */
async function compile(files) {
  const objects = await build.compile(
    { compiler, flags, kind: 'objects' },
    files.toSorted((a, b) => setOf(b) - setOf(a)),
  );
  return files.toSorted((a, b) => setOf(a) - setOf(b)).map((file) => objects.get(file));
}

const sources = build.sources(/\.cc$/).filter((file) => process.arch === 'x64' || setOf(file) === 0);
const programs = sources.filter((file) => file.endsWith('_bench.cc'));
const library = sources.filter((file) => !programs.includes(file));
const needsNode = (file) => readFileSync(file, 'utf8').includes('napi');

await build.locked('objects', async () => {
  if (process.argv.includes('--bench')) {
    const objects = await compile(library.filter((file) => !needsNode(file)));
    for (const program of programs) {
      const own = await compile([program]);
      await build.link(compiler, basename(program, '.cc'), [...own, ...objects, '-lpthread']);
    }
  } else {
    const objects = await compile(library);
    await build.link(compiler, 'cpu_backend.node', ['-shared', '-Wl,-z,nodelete,-z,now', ...objects, '-lpthread']);
  }
});
