#!/usr/bin/env node
// Compiles codecs.cc and runs it: `node benchmarks/oracle/run.mjs [--full] [--stride N] [--threads N] [--json]`.
// --full takes all 2^32 float32 patterns; the default stride takes some 17 million, plus every boundary. Exit code 1
// on any difference, 2 when there is no compiler.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

/** Where a CUDA toolkit keeps cuda_fp8.h, or undefined. */
function cudaInclude() {
  const roots = [process.env.CUDA_HOME, process.env.CUDA_PATH];
  if (existsSync('/usr/local')) {
    const installed = readdirSync('/usr/local').filter((name) => /^cuda(-\d|$)/.test(name));
    roots.push(...installed.sort().map((name) => `/usr/local/${name}`));
  }
  roots.push('/usr');
  return roots
    .filter((root) => root)
    .map((root) => join(root, 'include'))
    .find((path) => existsSync(join(path, 'cuda_fp8.h')));
}

function fail(message) {
  console.error(`oracle: ${message}`);
  process.exit(2);
}

function options() {
  try {
    const { values } = parseArgs({
      options: {
        full: { type: 'boolean', default: false },
        stride: { type: 'string', default: '257' },
        threads: { type: 'string', default: String(availableParallelism()) },
        json: { type: 'boolean', default: false },
      },
    });
    for (const name of ['stride', 'threads']) {
      if (!/^[1-9]\d{0,8}$/.test(values[name])) fail(`--${name} is ${values[name]}; expected a positive whole number`);
    }
    return values;
  } catch (error) {
    return fail(error.message);
  }
}

const { full, stride, threads, json } = options();
const here = dirname(fileURLToPath(import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'fp8lm-oracle-'));
try {
  const include = cudaInclude();
  if (!include) console.error("oracle: no CUDA toolkit found (cuda_fp8.h); NVIDIA's casts are left out");
  const program = join(folder, 'codecs');
  const compiler = process.env.CXX ?? 'g++';
  const flags = ['-O3', '-std=c++20', '-march=native', '-Wall', '-Wextra', '-pthread'];
  if (include) flags.push('-isystem', include);
  const built = spawnSync(compiler, [...flags, join(here, 'codecs.cc'), '-o', program], { stdio: ['ignore', 2, 2] });
  if (built.error) fail(`cannot run ${compiler}: ${built.error.message}; install g++ (apt-get install g++) or set CXX`);
  if (built.status !== 0) fail(`${compiler} could not compile codecs.cc (exit code ${built.status})`);
  const args = [full ? '1' : stride, threads, ...(json ? ['--json'] : [])];
  const ran = spawnSync(program, args, { stdio: ['ignore', 'inherit', 'inherit'] });
  if (ran.signal) fail(`codecs ended by ${ran.signal}`);
  process.exitCode = ran.status;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
