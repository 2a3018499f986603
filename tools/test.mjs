// `npm test`: sets up, runs the tests of every package through nx, and ends with `N passed, N failed`.
//
//   npm test                          everything; packages whose inputs did not change come from nx's cache
//   npm test -- fp8-core cpu-backend  these packages
//   npm test -- --no-cache            everything anew
//   npm test -- fp8-core -t linear    what begins with - goes to vitest, with all that follows
import './lib/check_node.mjs';

const { setUp, SetUpError } = await import('./lib/set_up.mjs');
const { countsFile } = await import('./lib/count_reporter.mjs');
const { root } = await import('./lib/root.mjs');
const { spawn } = await import('node:child_process');
const { existsSync, readdirSync, readFileSync, rmSync } = await import('node:fs');
const { join } = await import('node:path');

const given = process.argv.slice(2).filter((arg) => arg !== '--no-cache');
const split = given.findIndex((arg) => arg.startsWith('-'));
const names = split < 0 ? given : given.slice(0, split);
const forVitest = split < 0 ? [] : given.slice(split);

/** Packages with a test script. */
const testable = readdirSync(join(root, 'packages')).filter((name) => {
  const manifest = join(root, 'packages', name, 'package.json');
  return existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).scripts?.test !== undefined;
});

try {
  const unknown = names.find((name) => !testable.includes(name));
  if (unknown) throw new SetUpError(`there is no package "${unknown}"; there are ${testable.join(', ')}`);
  await setUp();
  process.exitCode = await test(names.length > 0 ? names : testable);
} catch (error) {
  if (!(error instanceof SetUpError)) throw error;
  console.error(`npm test: ${error.message}`);
  process.exitCode = 1;
}

async function test(projects) {
  for (const name of projects) rmSync(countsFile(name), { force: true });
  const args = ['run-many', '-t', 'test', '-p', projects.join(','), '--parallel=1', '--output-style=stream'];
  if (process.argv.includes('--no-cache')) args.push('--skip-nx-cache');
  if (forVitest.length > 0) args.push('--', ...forVitest);
  const nx = join(root, 'node_modules', 'nx');
  const { bin } = JSON.parse(readFileSync(join(nx, 'package.json'), 'utf8'));
  const status = await run(join(nx, bin.nx), args);

  const total = { passed: 0, failed: 0, skipped: 0 };
  for (const name of projects) {
    const counts = existsSync(countsFile(name)) ? JSON.parse(readFileSync(countsFile(name), 'utf8')) : undefined;
    // With a filter a package may have no test at all.
    if (!counts && forVitest.length === 0) console.log(`${name}: its tests did not run to the end`);
    for (const key of Object.keys(total)) total[key] += counts?.[key] ?? 0;
    if (!counts && forVitest.length === 0) total.failed++;
  }
  if (status !== 0 && total.failed === 0) total.failed = 1;
  if (total.skipped > 0) console.log(`${total.skipped} skipped`);
  console.log(`${total.passed} passed, ${total.failed} failed`);
  return total.failed > 0 ? 1 : 0;
}

function run(script, args) {
  const env = { ...process.env, NX_TUI: 'false', NX_DAEMON: 'false', NX_NO_CLOUD: 'true' };
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [script, ...args], { cwd: root, env, stdio: 'inherit' });
    child.on('error', () => resolve(1));
    child.on('close', (status) => resolve(status ?? 1));
  });
}
