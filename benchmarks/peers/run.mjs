#!/usr/bin/env node
// Our training step and PyTorch's, in alternating rounds of one run, so that a slow minute of the machine hits both:
//
//   node benchmarks/peers/run.mjs --preset gpt-12m --batch 8 --seq 256 [--recipes o2,bf16] [--rounds 3] [--steps 5]
//        [--variants autocast,master+heap] [--search] [--state FILE] [--budget SECONDS] [--json] [--save]
//
// With --state the same command goes on where FILE ends, measurement by measurement; with --budget it begins none after that
// time and ends with exit code 3: so a long run can be made in slices, each ratio still within one round.
// PyTorch's variants are tried once; the fastest bf16 and the fastest fp32 one then take part in every round. --search
// tries every variant of gpt_step.py instead of a short list. Exit code 2: something needed is missing.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, loadavg } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { median, provenance, save, table } from '../report.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, '..', '..');
const bin = join(root, 'packages', 'fp8-cli', 'bin', 'fp8lm.mjs');
/** What came out fastest, or close to it, in full searches with both larger presets. */
const shortList = [
  'fp32+tril+heap+avx512',
  'autocast+gelu32+tril+avx512',
  'master+gelu32+tril+heap+avx512',
  'pure+gelu32+tril+heap+avx512',
];

class Missing extends Error {}
class OverBudget extends Error {}

function options() {
  const { values } = parseArgs({
    options: {
      preset: { type: 'string', default: 'gpt-12m' },
      batch: { type: 'string' },
      seq: { type: 'string', default: '256' },
      recipes: { type: 'string', default: 'o2,bf16' },
      variants: { type: 'string' },
      search: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '3' },
      steps: { type: 'string', default: '5' },
      threads: { type: 'string', default: String(availableParallelism()) },
      state: { type: 'string' },
      budget: { type: 'string', default: '999999' },
      json: { type: 'boolean', default: false },
      save: { type: 'boolean', default: false },
    },
  });
  values.batch ??= values.preset === 'gpt2-124m' ? '4' : '8';
  for (const name of ['batch', 'seq', 'rounds', 'steps', 'threads', 'budget']) {
    if (!/^[1-9]\d{0,5}$/.test(values[name])) {
      throw new Missing(`--${name} is ${values[name]}; expected a whole number from 1 to 999999`);
    }
  }
  return values;
}

/** The first Python that can import torch: $PYTHON, the system's, then the one on the path. */
function findPython() {
  const candidates = [process.env.PYTHON, '/usr/bin/python3', 'python3'].filter((path) => path);
  const python = candidates.find((path) => spawnSync(path, ['-c', 'import torch'], { stdio: 'ignore' }).status === 0);
  if (python) return python;
  throw new Missing(
    'no python3 with PyTorch found; install it with `apt-get install python3-torch libopenblas0-openmp`, or set PYTHON',
  );
}

/** Runs a program that prints one JSON object as its last line. */
function runJson(what, command, args, env = {}) {
  const done = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, ...env },
    maxBuffer: 1 << 26,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  if (done.error) throw new Missing(`${what}: cannot run ${command}: ${done.error.message}`);
  const lastError = done.stderr.trim().split('\n').at(-1);
  if (done.status !== 0) throw new Missing(`${what} failed (exit code ${done.status ?? done.signal}): ${lastError}`);
  try {
    return JSON.parse(done.stdout.trim().split('\n').at(-1));
  } catch {
    throw new Missing(`${what} printed no JSON: ${done.stdout.trim().slice(-200) || lastError}`);
  }
}

function ours(opts, recipe) {
  const shape = ['--preset', opts.preset, '--recipe', recipe, '--batch', opts.batch, '--seq', opts.seq];
  const args = [bin, 'bench', 'step', ...shape, '--json'];
  const result = runJson(`fp8lm bench step --recipe ${recipe}`, process.execPath, args);
  if (!(result.tokensPerSecond > 0)) throw new Missing(`fp8lm bench step --recipe ${recipe} gave no tokensPerSecond`);
  return result;
}

function pytorch(opts, python, selection) {
  const shape = ['--preset', opts.preset, '--batch', opts.batch, '--seq', opts.seq, '--threads', opts.threads];
  const args = [join(here, 'gpt_step.py'), ...shape, '--steps', opts.steps, '--json', ...selection];
  return runJson('gpt_step.py', python, args);
}

/** What earlier slices measured, by name; `once` measures what is not there yet. */
function openState(opts) {
  const { preset, batch, seq, steps, threads, recipes } = opts;
  const of = JSON.stringify({ preset, batch, seq, steps, threads, recipes });
  const state =
    opts.state && existsSync(opts.state)
      ? JSON.parse(readFileSync(opts.state, 'utf8'))
      : { of, load: loadavg()[0], done: {} };
  if (state.of !== of) throw new Missing(`${opts.state} is of ${state.of}, not ${of}; name another file`);
  const end = Date.now() + Number(opts.budget) * 1000;
  return {
    load: state.load,
    once(name, measure) {
      if (state.done[name]) return state.done[name];
      if (Date.now() > end) throw new OverBudget();
      state.done[name] = measure();
      if (opts.state) {
        writeFileSync(`${opts.state}.tmp`, JSON.stringify(state));
        renameSync(`${opts.state}.tmp`, opts.state);
      }
      return state.done[name];
    },
  };
}

const number = (x, digits = 0) => (Number.isFinite(x) ? x.toFixed(digits) : '-');

function row(name, samples) {
  const of = (pick) => median(samples.map(pick).filter((x) => Number.isFinite(x)));
  const phases = ['forward', 'backward', 'optimizer'].map((phase) =>
    number(
      of((s) => s.phases?.[phase]),
      1,
    ),
  );
  return [
    name,
    number(of((s) => s.tokensPerSecond)),
    number(
      of((s) => s.stepMs),
      1,
    ),
    ...phases,
    number(of((s) => s.rssBytes) / 1e6),
  ];
}

/** The results of variants tried one by one as if tried together: the fastest step decides. */
function merge(parts) {
  const best = {};
  for (const part of parts)
    for (const [recipe, one] of Object.entries(part.best))
      if (!best[recipe] || one.minStepMs < best[recipe].minStepMs) best[recipe] = one;
  return { ...parts[0], variants: parts.flatMap((p) => p.variants), best };
}

/** Ratios of tokens per second within each round, and their median. */
function compare(rounds, mine, theirs) {
  const ratios = rounds.map((round) => round[mine].tokensPerSecond / round[theirs].tokensPerSecond);
  return { of: mine, to: theirs, ratios, median: median(ratios) };
}

function report(result) {
  const { provenance: p, rounds, ratios, preset, batch, seq } = result;
  const names = Object.keys(rounds[0]);
  const rows = names.map((name) =>
    row(
      name,
      rounds.map((round) => round[name]),
    ),
  );
  const lines = ratios.map((r) => [`${r.of} / ${r.to}`, ...r.ratios.map((x) => number(x, 2)), number(r.median, 2)]);
  return [
    `# Training step: ${preset}, batch ${batch}, sequence ${seq}`,
    `${p.cpu}, ${p.threads} threads, ${p.memoryGB} GB; ${p.date}; commit ${p.commit}`,
    `Node ${p.node}, PyTorch ${result.torch}; \`${p.command}\``,
    `Load of the machine before the run: ${number(result.loadBefore, 2)}.`,
    'Medians over the rounds; phases and steps in ms, resident set in MB.',
    table(['', 'tokens/s', 'step', 'forward', 'backward', 'optimizer', 'RSS'], rows),
    'Tokens per second, as ratios within a round:',
    table(['', ...rounds.map((_, i) => `round ${i + 1}`), 'median'], lines),
    'PyTorch variants tried:',
    table(
      ['', 'tokens/s', 'step', 'RSS'],
      result.tried.map((v) =>
        v.error
          ? [v.name, 'failed', v.error.slice(0, 60), '-']
          : [v.name, number(v.tokensPerSecond), number(v.stepMs, 1), number(v.rssBytes / 1e6)],
      ),
    ),
  ].join('\n\n');
}

function main() {
  const opts = options();
  if (!existsSync(bin)) throw new Missing('packages/fp8-cli/bin/fp8lm.mjs is not there; build the project first');
  const python = findPython();
  const recipes = opts.recipes.split(',').filter((name) => name);
  const say = (text) => console.error(text);

  const state = openState(opts);
  const { load } = state;
  if (load > 0.3 * availableParallelism()) {
    say(`the machine is busy (load ${number(load, 1)}): both sides wait at barriers for a thread that lost its core`);
  }
  say(`PyTorch: ${opts.search ? 'all variants' : 'choosing among the variants'}, ${opts.steps} steps each`);
  const list = opts.variants ?? shortList.map((name) => (opts.preset === 'gpt2-124m' ? `${name}+pad` : name)).join(',');
  const tried = opts.search
    ? state.once('search', () => pytorch(opts, python, ['--recipe', 'all']))
    : merge(list.split(',').map((name) => state.once(name, () => pytorch(opts, python, ['--variants', name]))));
  const rounds = [];
  const mine = recipes.map((recipe) => ({ name: recipe, run: () => ours(opts, recipe) }));
  const theirs = Object.entries(tried.best).map(([recipe, best]) => ({
    name: `pytorch ${recipe}`,
    run: () => pytorch(opts, python, ['--variants', best.name]).variants[0],
  }));
  const turns = Math.max(mine.length, theirs.length);
  const order = Array.from({ length: turns }, (_, i) => [mine[i], theirs[i]])
    .flat()
    .filter((side) => side); // A B A B
  for (let r = 0; r < Number(opts.rounds); r++) {
    const round = {};
    for (const { name, run } of order) {
      round[name] = state.once(`round ${r + 1} ${name}`, run);
      say(`round ${r + 1}  ${name.padEnd(20)} ${number(round[name].tokensPerSecond).padStart(8)} tokens/s`);
    }
    rounds.push(round);
  }
  const ratios = mine.flatMap((a) => theirs.map((b) => compare(rounds, a.name, b.name)));
  for (const recipe of recipes)
    if (recipe !== 'bf16' && recipes.includes('bf16')) ratios.push(compare(rounds, recipe, 'bf16'));
  const result = {
    provenance: provenance(root, ['node', 'benchmarks/peers/run.mjs', ...process.argv.slice(2)].join(' ')),
    loadBefore: load,
    preset: opts.preset,
    batch: Number(opts.batch),
    seq: Number(opts.seq),
    torch: tried.version,
    best: tried.best,
    tried: tried.variants,
    rounds,
    ratios,
  };
  const text = report(result);
  console.log(opts.json ? JSON.stringify(result) : text);
  if (opts.save) {
    if (opts.state) rmSync(opts.state, { force: true });
    say(`written: ${save(join(root, 'benchmarks', 'results'), `step-${opts.preset}`, result, `${text}\n`)}.{json,md}`);
  }
}

try {
  main();
} catch (error) {
  if (error instanceof OverBudget) {
    console.error('peers: the time of this slice is over; the same command goes on');
    process.exit(3);
  }
  const known = error instanceof Missing || error?.code?.startsWith?.('ERR_PARSE_ARGS');
  if (!known) throw error;
  console.error(`peers: ${error.message}`);
  process.exitCode = 2;
}
