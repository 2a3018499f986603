// Builds the CUDA addon and its simulated twin from the same .cu files. Plain Node; no node-gyp, no CMake.
//
//   node build.mjs                 what this machine can: the device addon where nvcc is found, the simulator where g++ is
//   node build.mjs --sim           build/cuda_sim.node      with the host C++ compiler
//   node build.mjs --device        build/cuda_backend.node  with nvcc, for sm_80, sm_89, sm_90a and PTX
//   node build.mjs --report        compiles for the device and prints what each kernel uses: registers, shared memory, spills
//   --verbose                      says what it does
//   FP8_CUDA_ARCHS=90a             for one chip only: a quarter of the time
//
// Objects are cached by a hash of compiler, flags, source and every header it includes.
import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const native = join(here, 'native');
const shared = resolve(here, '../fp8-kernels/native');
const out = join(here, 'build');
const has = (flag) => process.argv.includes(flag);
const verbose = has('--verbose');
const jobs = 2;

const say = (line) => verbose && console.log(line);
function fail(line) {
  console.error(line);
  process.exit(1);
}

function versionOf(name) {
  const run = spawnSync(name, ['--version'], { encoding: 'utf8' });
  return run.status === 0 ? { name, version: run.stdout.trim().split('\n').slice(-2).join(' ') } : null;
}

/** The first host compiler that runs: CXX, else g++, clang++, c++. */
function findHost() {
  for (const name of process.env.CXX ? [process.env.CXX] : ['g++', 'clang++', 'c++']) {
    const found = versionOf(name);
    if (found) return found;
  }
  return null;
}

/** nvcc: NVCC, CUDA_HOME, CUDA_PATH, the usual folders, PATH. */
function findNvcc() {
  if (process.env.NVCC) return versionOf(process.env.NVCC);
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda'].filter(Boolean);
  for (const name of [...homes.map((home) => join(home, 'bin/nvcc')), 'nvcc']) {
    const found = versionOf(name);
    if (found) return found;
  }
  return null;
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
    execFile(command, args, { maxBuffer: 1 << 28 }, (error, stdout, stderr) =>
      done({ ok: !error, text: stdout + stderr }),
    );
  });
}

/** Compiles unless an object of the same hash exists; returns its path. What the compiler said lies beside it. */
async function compile({ compiler, flags, kind, language }, file) {
  const hash = createHash('sha256').update(JSON.stringify([compiler, flags, language]));
  for (const path of [file, ...[...headersOf(file)].sort()])
    hash.update(relative(here, path)).update(readFileSync(path));
  const stem = relative(native, file).replaceAll(/[/.]/g, '_');
  const object = join(out, kind, `${stem}-${hash.digest('hex').slice(0, 16)}.o`);
  if (existsSync(object)) return object;
  for (const name of readdirSync(join(out, kind)))
    if (name.replace(/-[0-9a-f]{16}\.\w+$/, '') === stem) rmSync(join(out, kind, name), { force: true });
  const aside = `${object}.tmp-${process.pid}.o`;
  const start = Date.now();
  const result = await run(compiler.name, [...flags, ...language(file), '-c', file, '-o', aside]);
  if (!result.ok) {
    rmSync(aside, { force: true });
    console.error(result.text);
    fail(`cuda-backend: ${compiler.name} could not compile ${relative(process.cwd(), file)}`);
  }
  const warnings = result.text.split('\n').filter((line) => /\bwarning\b/i.test(line));
  if (warnings.length) console.error(warnings.join('\n'));
  writeFileSync(object.replace(/\.o$/, '.txt'), result.text);
  renameSync(aside, object);
  say(`compiled ${basename(file)} in ${((Date.now() - start) / 1000).toFixed(1)} s`);
  return object;
}

async function compileAll(tool, files) {
  mkdirSync(join(out, tool.kind), { recursive: true });
  const objects = new Map();
  const queue = [...files].sort((a, b) => statSync(b).size - statSync(a).size);
  const worker = async () => {
    for (let file = queue.shift(); file; file = queue.shift()) objects.set(file, await compile(tool, file));
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  return files.map((file) => objects.get(file));
}

async function link(compiler, target, args) {
  const aside = `${target}.tmp-${process.pid}`;
  const result = await run(compiler.name, ['-o', aside, ...args]);
  if (!result.ok) {
    rmSync(aside, { force: true });
    console.error(result.text);
    fail(`cuda-backend: ${compiler.name} could not link ${relative(process.cwd(), target)}`);
  }
  renameSync(aside, target);
  say(`linked ${relative(process.cwd(), target)}`);
}

function nodeHeaders() {
  try {
    return createRequire(import.meta.url)('node-api-headers').include_dir;
  } catch {
    return fail('cuda-backend: the package node-api-headers is missing; run `npm ci` in the repository root');
  }
}

const filesIn = (folder, pattern) =>
  existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => pattern.test(name))
        .sort()
        .map((name) => join(folder, name))
    : [];
const includes = () => [nodeHeaders()].flatMap((folder) => ['-I', folder]);

async function buildSim() {
  const compiler = findHost();
  if (!compiler) fail('cuda-backend: no C++ compiler (g++, clang++, c++; or set CXX), so no simulated device');
  say(`simulator: ${compiler.version}`);
  const flags = [
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
    ...includes(),
  ];
  const language = (file) => (file.endsWith('.cu') ? ['-x', 'c++'] : []);
  const files = [...filesIn(native, /\.(cu|cc)$/), ...filesIn(join(native, 'sim'), /\.(cu|cc)$/)];
  const objects = await compileAll({ compiler, flags, kind: 'sim', language }, files);
  await link(compiler, join(out, 'cuda_sim.node'), ['-shared', '-Wl,-z,nodelete', ...objects, '-lpthread', '-ldl']);
}

/** One binary for Ampere, Ada and Hopper, and PTX for what comes after; or only what FP8_CUDA_ARCHS=90a names. */
const targets = process.env.FP8_CUDA_ARCHS?.split(',') ?? ['80', '89', '90a'];

async function buildDevice({ linked }) {
  const compiler = findNvcc();
  if (!compiler)
    fail(
      'cuda-backend: no nvcc (NVCC, CUDA_HOME, CUDA_PATH, /usr/local/cuda, PATH); install the CUDA toolkit 12.0 or newer',
    );
  say(`device: ${compiler.version}`);
  const flags = [
    '-std=c++17',
    '-O3',
    '-fmad=false', // what may be contracted says so: math::mulAdd
    '--Werror=all-warnings',
    '-Xptxas=-v',
    '-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unused-function,-Wno-unknown-pragmas,-ffp-contract=off',
    ...targets.flatMap((t) => [`-gencode=arch=compute_${t},code=sm_${t}`]),
    ...(process.env.FP8_CUDA_ARCHS ? [] : ['-gencode=arch=compute_90,code=compute_90']),
    ...includes(),
  ];
  const language = (file) => (file.endsWith('.cc') ? ['-x', 'cu'] : []); // they include device.h too
  const files = [...filesIn(native, /\.(cu|cc)$/), ...filesIn(join(native, 'cuda'), /\.(cu|cc)$/)];
  const objects = await compileAll({ compiler, flags, kind: 'device', language }, files);
  if (linked)
    await link(compiler, join(out, 'cuda_backend.node'), [
      '-shared',
      '-cudart=static',
      '-Xlinker=-z,nodelete',
      ...objects,
      '-ldl',
    ]);
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

/** Two builds of one kind at once would write the same files: the second waits, unless the first is gone. */
async function locked(kind, work) {
  mkdirSync(out, { recursive: true });
  const lock = join(out, `lock-${kind}`);
  for (let waited = 0; ; waited++) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch {
      if (!isAlive(lock)) rmSync(lock, { force: true });
      if (waited > 9000) fail(`cuda-backend: another build holds ${lock}; remove it if none runs`);
      await new Promise((done) => setTimeout(done, 100));
    }
  }
  process.on('exit', () => rmSync(lock, { force: true }));
  await work();
  rmSync(lock, { force: true });
}

/** Whether the process that wrote a lock still runs. */
function isAlive(lock) {
  try {
    process.kill(Number(readFileSync(lock, 'utf8')) || process.pid, 0);
    return true;
  } catch {
    return false;
  }
}

const both = !has('--sim') && !has('--device') && !has('--report');
if (has('--sim') || (both && findHost())) await locked('sim', buildSim);
if (has('--device') || (both && findNvcc())) await locked('device', () => buildDevice({ linked: true }));
if (has('--report'))
  await locked('device', async () => {
    if (report(await buildDevice({ linked: false })) > 0) process.exitCode = 1;
  });
