// What a fresh clone needs before anything runs, each step skipped while it is up to date:
//
//   packages   npm ci, when node_modules is not what package-lock.json says
//   native     the CPU backend, when its sources changed (packages/cpu-backend/build/stamp keeps their hash)
//   dist       tsc -b, which knows by itself what changed
//
// A lock makes it safe to run `npm start` and `npm test` at the same time.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { arch } from 'node:os';
import { join } from 'node:path';
import { findHostCompiler } from './compiler.mjs';
import { lock } from './lock.mjs';
import { root } from './root.mjs';
import { hashOf, readStamp, writeStamp } from './stamp.mjs';

const at = (...parts) => join(root, ...parts);
const addon = at('packages', 'cpu-backend', 'build', 'cpu_backend.node');
const nativeStamp = at('packages', 'cpu-backend', 'build', 'stamp');

const say = (text) => console.error(text);

/** A step that failed; its message is for people. */
export class SetUpError extends Error {}

/**
 * Brings the clone up to date.
 * @param install false leaves node_modules as it is
 * @returns {Promise<{native: boolean, dist: boolean}>} whether the native backend and the compiled packages are there
 * @throws SetUpError if packages cannot be installed, or another set-up does not end
 */
export async function setUp({ install = true } = {}) {
  const path = at('.setup.lock');
  const onWait = () => say('waiting for another set-up of this folder to end');
  const unlock = await lock(path, { minutes: 60, onWait });
  if (!unlock) throw new SetUpError(`another set-up has held ${path} for an hour; remove it if none runs`);
  try {
    if (install) await installPackages();
    return { native: await buildNative(), dist: await buildDist() };
  } finally {
    unlock();
  }
}

/** True if every package of the lock file is there in its version, as npm itself recorded it. */
function isInstalled() {
  const recorded = at('node_modules', '.package-lock.json');
  if (!existsSync(recorded)) return false;
  const { packages: installed } = readJson(recorded);
  return Object.entries(readJson(at('package-lock.json')).packages).every(([path, { version, link, optional }]) => {
    if (!path.includes('node_modules/')) return true;
    if (link) return existsSync(at(path));
    // Packages for other platforms are optional and not there.
    if (!installed[path]) return optional === true;
    return installed[path].version === version && existsSync(at(path, 'package.json'));
  });
}

const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'));

async function installPackages() {
  if (isInstalled()) return;
  const done = timed('installing packages (npm ci)');
  const flags = [
    'ci',
    '--ignore-scripts',
    '--include=dev',
    '--no-audit',
    '--no-fund',
    '--prefer-offline',
    '--loglevel=error',
  ];
  const npm = process.env.npm_execpath?.endsWith('.js')
    ? [process.execPath, [process.env.npm_execpath, ...flags]]
    : ['npm', flags];
  const { status, text } = await run(...npm);
  if (status !== 0) {
    done('failed');
    throw new SetUpError(explainNpm(text));
  }
  done();
}

function explainNpm(text) {
  if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED|network/i.test(text)) {
    return 'npm cannot reach its registry, and not all packages are in its cache; connect to a network (or see `npm config get registry`) and try again';
  }
  if (/ENOSPC/.test(text)) return 'npm ci: the disk is full';
  const last = text.split('\n').filter((line) => /npm (error|ERR!)/.test(line) && !/complete log/.test(line));
  return `npm ci failed: ${(last.slice(0, 3).join(' ') || text.trim().slice(-300)).replaceAll(/npm (error|ERR!) ?/g, '')}`;
}

const nativeSources = [
  'packages/cpu-backend/native',
  'packages/cpu-backend/build.mjs',
  'packages/fp8-kernels/native',
  'tools/lib/native_build.mjs',
];

/** What the addon is made of, as one hash; changes when it must be built again. */
export function nativeHash() {
  const { name = '', version = '' } = findHostCompiler() ?? {};
  return hashOf(
    nativeSources.map((path) => at(path)),
    [name, version, arch()],
  );
}

/** `built HASH`, `stale` or `none`: what tests of native code depend on. */
export const nativeState = () => (existsSync(addon) ? `built ${readStamp(nativeStamp)}` : 'none');

async function buildNative() {
  if (!findHostCompiler()) {
    const what = existsSync(addon) ? 'the native backend stays as it was built' : 'the slow reference backend is used';
    say(`no C++ compiler found, so ${what} (Debian and Ubuntu: apt-get install g++)`);
    return existsSync(addon);
  }
  const hash = nativeHash();
  if (existsSync(addon) && readStamp(nativeStamp) === hash) return true;
  const done = timed('building the native CPU backend (once, a minute or so)');
  const { status, text } = await run(process.execPath, [at('packages', 'cpu-backend', 'build.mjs')]);
  if (status === 0) {
    writeStamp(nativeStamp, hash);
    done();
    return true;
  }
  done('failed');
  say(text.trim().split('\n').slice(-12).join('\n'));
  say('the native backend was not built; the slow reference backend is used');
  return false;
}

async function buildDist() {
  const tsc = at('node_modules', 'typescript', 'bin', 'tsc');
  if (!existsSync(tsc)) return false;
  const { status, text } = await run(process.execPath, [tsc, '-b']);
  if (status === 0) return true;
  say(text.trim().split('\n').slice(0, 10).join('\n'));
  say('tsc found the errors above; running from source');
  return false;
}

/** Says that a step begins, and how long it took. */
function timed(what) {
  const start = Date.now();
  const isLive = process.stderr.isTTY;
  process.stderr.write(isLive ? `${what} …` : `${what}\n`);
  const seconds = () => ((Date.now() - start) / 1000).toFixed(0);
  const timer = isLive ? setInterval(() => process.stderr.write(`\r${what} … ${seconds()} s`), 1000) : undefined;
  return (result = 'done') => {
    clearInterval(timer);
    process.stderr.write(isLive ? `\r${what} … ${result} in ${seconds()} s\x1b[K\n` : `${result} in ${seconds()} s\n`);
  };
}

/** Runs a program in the root, its output kept. */
function run(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += chunk));
    child.on('error', (error) => resolve({ status: 1, text: `${command}: ${error.message}` }));
    child.on('close', (status) => resolve({ status: status ?? 1, text }));
  });
}
