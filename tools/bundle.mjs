// `npm run bundle`: packs a folder that needs nothing but a machine of the same kind: Node, the compiled packages with what
// they depend on, and the addons that were built here. For a GPU machine without a network, without npm, without a compiler.
//
//   node tools/bundle.mjs [--out FOLDER]     writes FOLDER/fp8lm-<platform>-<arch>.tar.gz (default: build)
//
// In it: `./fp8lm.sh …` (the command), `./check [kernel]` (the case table on `FP8_CUDA=sim` or the device), `./bench …`
// (`npm run bench:gpu`).
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { root } from './lib/root.mjs';

const mostBytes = 60e6;
const target = `${process.platform}-${process.arch}`;
const outFlag = process.argv.indexOf('--out');
const out = outFlag > 0 ? process.argv[outFlag + 1] : join(root, 'build');

function fail(line) {
  console.error(`bundle: ${line}`);
  process.exit(2);
}

const workspaces = readdirSync(join(root, 'packages')).filter((name) =>
  existsSync(join(root, 'packages', name, 'package.json')),
);
const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'));

/** Copies one of our packages: manifest, dist, bin, and of addons what was built. */
function copyWorkspace(name, modules) {
  const from = join(root, 'packages', name);
  const to = join(modules, name);
  mkdirSync(to, { recursive: true });
  for (const part of ['package.json', 'dist', 'bin']) {
    if (existsSync(join(from, part))) cpSync(join(from, part), join(to, part), { recursive: true, filter: isCode });
  }
  if (!existsSync(join(from, 'tsconfig.json'))) return;
  if (!existsSync(join(from, 'dist'))) fail(`packages/${name} is not compiled; run \`npm run build\``);
  for (const addon of ['cpu_backend.node', 'cuda_backend.node', 'cuda_sim.node']) {
    const path = join(from, 'build', addon);
    if (!existsSync(path)) continue;
    mkdirSync(join(to, 'build'), { recursive: true });
    cpSync(path, join(to, 'build', addon));
    console.log(`with ${name}/build/${addon}`);
  }
}

const isCode = (path) => !/\.(d\.ts|map|tsbuildinfo)$/.test(path);

/** A package of others and what it needs; builds for other platforms stay behind. */
function copyDependency(name, modules) {
  const to = join(modules, name);
  if (existsSync(to)) return;
  const from = join(root, 'node_modules', name);
  if (!existsSync(from)) fail(`node_modules/${name} is missing; run \`npm run setup\``);
  const foreign = (path) =>
    name === 'zeromq' &&
    (/\/(src|script|ts3\.7|darwin|win32)(\/|$)/.test(path.slice(from.length)) ||
      (/\/linux\/\w+/.test(path) && !path.includes(`/linux/${process.arch}`)) ||
      /\/musl-/.test(path));
  mkdirSync(to, { recursive: true });
  cpSync(from, to, { recursive: true, dereference: true, filter: (path) => !foreign(path) && isCode(path) });
  for (const next of Object.keys(readJson(join(from, 'package.json')).dependencies ?? {})) {
    if (next !== 'node-addon-api') copyDependency(next, modules);
  }
}

// tsx runs sources and run files in TypeScript; a bundle has compiled packages only.
const leftOut = new Set(['tsx']);

const folder = mkdtempSync(join(tmpdir(), 'fp8lm-bundle-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const top = join(folder, 'fp8lm');
const modules = join(top, 'node_modules');
mkdirSync(modules, { recursive: true });
for (const name of workspaces) {
  copyWorkspace(name, modules);
  for (const dependency of Object.keys(readJson(join(root, 'packages', name, 'package.json')).dependencies ?? {})) {
    if (!workspaces.includes(dependency) && !leftOut.has(dependency)) copyDependency(dependency, modules);
  }
}
cpSync(realpathSync(process.execPath), join(top, 'node'));
spawnSync('strip', [join(top, 'node')]); // where there is one: a third less to carry
cpSync(join(root, 'LICENSE'), join(top, 'LICENSE'));
writeFileSync(join(top, 'package.json'), '{ "type": "module", "private": true }\n');
writeFileSync(
  join(top, 'check.mjs'),
  `// The table of kernel cases on the CUDA device, or with FP8_CUDA=sim on the simulated one.
import { checkCases, cudaBackend } from 'cuda-backend';
let backend;
try {
  backend = cudaBackend();
} catch (error) {
  console.error(error.message);
  process.exit(2);
}
console.log(backend.describe());
const { passed, failures } = checkCases(backend, process.argv[2]);
for (const line of failures) console.error(line);
console.log(\`\${passed} passed, \${failures.length} failed\`);
process.exitCode = failures.length ? 1 : 0;
`,
);
const compiled = spawnSync(
  process.execPath,
  [
    join(root, 'node_modules/typescript/bin/tsc'),
    '-p',
    join(root, 'benchmarks/gpu'),
    '--outDir',
    join(top, 'benchmarks'),
  ],
  { encoding: 'utf8' },
);
if (compiled.status !== 0) fail(`benchmarks/gpu does not compile:\n${compiled.stdout}`);
cpSync(join(root, 'benchmarks/gpu/torch_gpu.py'), join(top, 'benchmarks/gpu/torch_gpu.py'));
const commit = spawnSync('git', ['describe', '--always', '--dirty', '--abbrev=12'], { cwd: root, encoding: 'utf8' });
const script = (command) => `#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
export FP8LM_COMMIT=${commit.stdout?.trim() || 'unknown'}
exec "$here/node" ${command} "$@"
`;
writeFileSync(join(top, 'fp8lm.sh'), script('"$here/node_modules/fp8-cli/bin/fp8lm.mjs"'));
writeFileSync(join(top, 'check'), script('"$here/check.mjs"'));
writeFileSync(join(top, 'bench'), script('"$here/benchmarks/gpu/run.js"'));
for (const name of ['fp8lm.sh', 'check', 'bench', 'node']) chmodSync(join(top, name), 0o755);

mkdirSync(out, { recursive: true });
const archive = join(out, `fp8lm-${target}.tar.gz`);
const tar = spawnSync('tar', ['-czf', archive, '-C', folder, 'fp8lm'], {
  encoding: 'utf8',
  env: process.env,
});
if (tar.status !== 0) fail(`tar failed: ${tar.stderr}`);
const { size } = statSync(archive);
console.log(`${basename(archive)}: ${(size / 1e6).toFixed(1)} MB, in ${out}`);
if (size > mostBytes) fail(`it is larger than ${mostBytes / 1e6} MB`);
