// Builds the native addon: every native/*.cc of this package plus the generated binding of fp8-kernels (once it exists)
// into build/cpu_backend.node. Plain Node and a C++ compiler; no node-gyp, no Python.
//
//   node build.mjs [--verbose]            the addon
//   node build.mjs --bench [--verbose]    build/gemm_bench and other native/*_bench.cc, as programs
//
// The file name's ending picks the instruction set (see `flagsFor`); isa.h decides at run time what may be called. Objects
// are cached by a hash of compiler, flags, source and every header it includes; no absolute path enters it, so build/objects may
// be a link to a folder that several clones share.
//
// Link order matters: an inline function that two objects did not inline exists in both, and the linker keeps the FIRST.
// Objects are therefore linked from the baseline upwards, so that no baseline code ever runs an AVX-512 copy.
import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const native = join(here, 'native');
const shared = resolve(here, '../fp8-kernels/native');
const out = join(here, 'build');
const verbose = process.argv.includes('--verbose');
const bench = process.argv.includes('--bench');
const jobs = 2;

const say = (line) => verbose && console.log(line);
function fail(line) {
  console.error(line);
  process.exit(1);
}

/** The first compiler that runs: CXX, else g++, clang++, c++. */
function findCompiler() {
  const tried = process.env.CXX ? [process.env.CXX] : ['g++', 'clang++', 'c++'];
  for (const name of tried) {
    const run = spawnSync(name, ['--version'], { encoding: 'utf8' });
    if (run.status === 0) return { name, version: run.stdout.split('\n')[0] };
  }
  return fail(`cpu-backend: no C++ compiler (tried ${tried.join(', ')}); install g++ or clang++, or set CXX`);
}

/** Per-file instruction sets, from the baseline up; the position is also the link order. */
const sets = [
  { suffix: '.cc', flags: [] },
  { suffix: '_avx2.cc', flags: ['-mavx2', '-mfma', '-mf16c'] },
  { suffix: '_avx512.cc', flags: ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma', '-mf16c'] },
  {
    suffix: '_avx512bf16.cc',
    flags: ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mavx512bf16', '-mfma', '-mf16c'],
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

function setOf(file) {
  for (let i = sets.length - 1; i > 0; i--) if (file.endsWith(sets[i].suffix)) return i;
  return 0;
}

/** Headers of ours that a file includes, directly or not. */
function headersOf(file, seen = new Set()) {
  for (const [, name] of readFileSync(file, 'utf8').matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
    const path = [resolve(dirname(file), name), join(shared, name), join(native, name)].find((p) => existsSync(p));
    if (!path || seen.has(path)) continue;
    seen.add(path);
    headersOf(path, seen);
  }
  return seen;
}

function run(command, args) {
  return new Promise((done) => {
    execFile(command, args, { cwd: here, maxBuffer: 1 << 26 }, (error, _stdout, stderr) =>
      done({ ok: !error, text: stderr }),
    );
  });
}

/** Compiles unless an object of the same hash exists; returns its path. */
async function compile(compiler, file, includes) {
  const flags = [...common, ...sets[setOf(file)].flags, ...includes.flatMap((d) => ['-I', relative(here, d)])];
  const hash = createHash('sha256').update(JSON.stringify([compiler, flags]));
  for (const path of [file, ...[...headersOf(file)].sort()])
    hash.update(relative(here, path)).update(readFileSync(path));
  const object = join(out, 'objects', `${basename(file, '.cc')}-${hash.digest('hex').slice(0, 16)}.o`);
  if (existsSync(object)) return object;
  const aside = `${object}.tmp-${process.pid}`;
  const start = Date.now();
  const result = await run(compiler.name, [...flags, '-c', relative(here, file), '-o', aside]);
  if (!result.ok) {
    rmSync(aside, { force: true });
    console.error(result.text);
    fail(`cpu-backend: ${compiler.name} could not compile ${relative(process.cwd(), file)}`);
  }
  if (result.text) say(result.text);
  renameSync(aside, object);
  say(`compiled ${basename(file)} in ${((Date.now() - start) / 1000).toFixed(1)} s`);
  return object;
}

/** Compiles all files, at most `jobs` at a time, the slow instruction sets first; objects in link order. */
async function compileAll(compiler, files, includes) {
  const objects = new Map();
  const queue = [...files].sort((a, b) => setOf(b) - setOf(a));
  const worker = async () => {
    for (let file = queue.shift(); file; file = queue.shift())
      objects.set(file, await compile(compiler, file, includes));
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  return [...files].sort((a, b) => setOf(a) - setOf(b) || (a < b ? -1 : 1)).map((file) => objects.get(file));
}

async function link(compiler, target, args) {
  const aside = `${target}.tmp-${process.pid}`;
  const result = await run(compiler.name, ['-o', aside, ...args]);
  if (!result.ok) {
    rmSync(aside, { force: true });
    console.error(result.text);
    fail(`cpu-backend: ${compiler.name} could not link ${relative(process.cwd(), target)}`);
  }
  renameSync(aside, target);
  say(`linked ${relative(process.cwd(), target)}`);
}

/** Removes objects that no current source maps to; in a shared folder others may need them. */
function dropStale(kept) {
  const dir = join(out, 'objects');
  if (lstatSync(dir).isSymbolicLink()) return;
  for (const name of readdirSync(dir)) {
    const stem = name.replace(/-[0-9a-f]{16}\.o$/, '');
    if (name.endsWith('.o') && kept.some((k) => k.stem === stem && k.name !== name))
      rmSync(join(dir, name), { force: true });
  }
}

function nodeHeaders() {
  try {
    return createRequire(import.meta.url)('node-api-headers').include_dir;
  } catch {
    return fail('cpu-backend: the package node-api-headers is missing; run `npm ci` in the repository root');
  }
}

const compiler = findCompiler();
say(`using ${compiler.version}`);
mkdirSync(join(out, 'objects'), { recursive: true });
const usable = (dir) =>
  existsSync(dir)
    ? readdirSync(dir)
        .filter((f) => f.endsWith('.cc') && (process.arch === 'x64' || setOf(f) === 0))
        .map((f) => join(dir, f))
    : [];
const sources = usable(native);
const programs = sources.filter((f) => f.endsWith('_bench.cc'));
const library = sources.filter((f) => !f.endsWith('_bench.cc'));
const generated = usable(join(shared, 'generated'));
const inPrograms = (f) => !/napi/.test(readFileSync(f, 'utf8'));
// The same flags for both kinds, so that the addon and the programs share their objects.
const objects = await compileAll(
  compiler,
  bench ? [...library.filter(inPrograms), ...programs] : [...library, ...generated],
  [shared, nodeHeaders()],
);

if (bench) {
  const main = programs.map((f) => basename(f, '.cc'));
  const isProgram = (object) => main.some((name) => basename(object).startsWith(`${name}-`));
  for (const name of main) {
    const own = objects.filter((object) => basename(object).startsWith(`${name}-`));
    await link(compiler, join(out, name), [...own, ...objects.filter((o) => !isProgram(o)), '-lpthread']);
  }
} else {
  await link(compiler, join(out, 'cpu_backend.node'), ['-shared', '-Wl,-z,nodelete,-z,now', ...objects, '-lpthread']);
}
dropStale(objects.map((o) => ({ name: basename(o), stem: basename(o).replace(/-[0-9a-f]{16}\.o$/, '') })));
