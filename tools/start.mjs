// `npm start`: from a fresh clone to a GPT trained on real text in BF16 and in FP8, side by side, in under five minutes.
// Options of `fp8lm compare` go through: npm start -- --steps 50
import './lib/check_node.mjs';

const { setUp, SetUpError } = await import('./lib/set_up.mjs');
const { tryLock } = await import('./lib/lock.mjs');
const { root } = await import('./lib/root.mjs');
const { spawn } = await import('node:child_process');
const { mkdirSync, rmSync } = await import('node:fs');
const { join, relative } = await import('node:path');

/** Minutes for both trainings, and the least; less of the first when set-up took long, so that all of it stays under five. */
const [trainingMinutes, leastMinutes, allMinutes] = [2.2, 0.3, 3.6];
const startedAt = Date.now();

const given = process.argv.slice(2);
const has = (...names) => given.some((arg) => names.includes(arg.split('=')[0]));

try {
  const { native } = await setUp();
  const minutesLeft = allMinutes - (Date.now() - startedAt) / 60_000;
  const minutes = Math.max(leastMinutes, Math.min(trainingMinutes, minutesLeft)).toFixed(2);
  const out = has('--out', '--help', '-h') ? undefined : freeFolder();
  const defaults = [
    ...(out === undefined ? [] : ['--out', relative(process.cwd(), out) || '.']),
    ...(has('--lr') ? [] : ['--lr', '3e-3']),
    ...(has('--steps', '--minutes') ? [] : ['--minutes', minutes]),
    // The reference backend is a thousand times slower: a smaller step, so that there is something to see.
    ...(native || has('--batch') ? [] : ['--batch', '1']),
    ...(native || has('--eval-batches') ? [] : ['--eval-batches', '2']),
    ...(native || has('--seq') ? [] : ['--seq', '32']),
  ];
  await run(['compare', ...defaults, ...given]);
} catch (error) {
  if (!(error instanceof SetUpError)) throw error;
  console.error(`npm start: ${error.message}`);
  process.exitCode = 1;
}

/** runs/start, or the next free one while another `npm start` writes there. */
function freeFolder() {
  const runs = join(root, 'runs');
  mkdirSync(runs, { recursive: true });
  for (let i = 1; ; i++) {
    const folder = join(runs, i === 1 ? 'start' : `start-${i}`);
    if (!tryLock(`${folder}.lock`)) continue;
    rmSync(folder, { recursive: true, force: true });
    return folder;
  }
}

/** Runs fp8lm with the terminal as its own; signals of the terminal reach it directly. */
function run(args) {
  const child = spawn(process.execPath, [join(root, 'packages', 'fp8-cli', 'bin', 'fp8lm.mjs'), ...args], {
    stdio: 'inherit',
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal);
    });
  }
  return new Promise((resolve) => {
    child.on('close', (code, signal) => {
      process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 143);
      resolve();
    });
  });
}
