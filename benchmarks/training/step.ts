// One training step by recipe, in one process and in turn (A B A B …), so that whatever slows the machine slows both.
//
//   npx tsx -C source benchmarks/training/step.ts [--preset gpt-12m] [--recipes bf16,o2] [--batch 8] [--seq 256]
//       [--rounds 10] [--save]
//
// Medians over rounds; ratios are medians of the rounds' own ratios against the first recipe. The windows' warm-up (16 steps
// of just-in-time casts) is ended before measuring. The peak is measured between rounds.
import { parseArgs } from 'node:util';
import { cpuBackend } from 'cpu-backend';
import { modelContext, recipeNamed } from 'fp8-core';
import { Gpt, presetNamed } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { type Phases, randomTokens, Sampler, Trainer, type TrainStep } from 'fp8-train';
import { median, provenance, save, table } from '../report.mjs';

const { values } = parseArgs({
  options: {
    preset: { type: 'string', default: 'gpt-12m' },
    recipes: { type: 'string', default: 'bf16,o2' },
    batch: { type: 'string', default: '8' },
    seq: { type: 'string', default: '256' },
    rounds: { type: 'string', default: '10' },
    save: { type: 'boolean', default: false },
  },
});

const batch = Number(values.batch);
const seqLen = Number(values.seq);
const config = presetNamed(values.preset);
const backend = cpuBackend();

function prepare(recipe: string) {
  const model = new Gpt(modelContext(backend, recipeNamed(recipe), 1), config);
  const trainer = new Trainer(model, new AdamW(model.parameters()), { batch, seq: seqLen });
  const sampler = new Sampler(randomTokens(config.vocabSize, 1), { seqLen });
  const step = (): TrainStep => trainer.step(() => sampler.nextBatch(batch), 1e-4);
  step();
  step();
  model.context.scaling.endWarmup();
  step();
  return { recipe, step, record: [] as TrainStep[], kernels: {} as Record<string, number> };
}

const runs = values.recipes.split(',').map(prepare);
const peaks: number[] = [];
for (let round = 0; round < Number(values.rounds); round++) {
  peaks.push(backend.peakGflops('bf16', 0.05));
  for (const run of runs) {
    backend.resetProfile();
    run.record.push(run.step());
    for (const [name, [, ms]] of Object.entries(backend.profile())) run.kernels[name] = (run.kernels[name] ?? 0) + ms;
  }
}

const [baseline] = runs;
type Measure = (s: TrainStep) => number;
const phase =
  (name: keyof Phases): Measure =>
  (s) =>
    s.phases[name];
const measures: [string, Measure][] = [
  ['step', (s) => s.stepMs],
  ['forward', phase('forward')],
  ['backward', phase('backward')],
  ['optimizer', phase('optimizer')],
];
const ratioOf = (run: (typeof runs)[number], measure: Measure): number =>
  median(run.record.map((s, i) => measure(baseline.record[i]) / measure(s)));
const rows = runs.map((run) => [
  run.recipe,
  median(run.record.map((s) => (s.tokens / s.stepMs) * 1000)).toFixed(0),
  ...measures.map(
    ([, measure]) => `${median(run.record.map(measure)).toFixed(1)} (${ratioOf(run, measure).toFixed(3)}x)`,
  ),
]);
const text = table(['recipe', 'tokens/s', ...measures.map(([name]) => `${name} ms`)], rows);
console.log(
  `${values.preset}, batch ${batch}, sequence ${seqLen}, ${backend.describe()}, peak ${median(peaks).toFixed(0)} GFLOP/s`,
);
console.log(text);
const rounds = Number(values.rounds);
for (const run of runs) {
  const top = Object.entries(run.kernels)
    .sort((a, b) => b[1] - a[1])
    .slice(0, 12)
    .map(([name, ms]) => `${name} ${(ms / rounds).toFixed(1)}`);
  const total = run.record.reduce((sum, s) => sum + s.stepMs, 0);
  const inKernels = Object.values(run.kernels).reduce((a, b) => a + b, 0);
  console.log(`${run.recipe}: outside kernels ${(100 * (1 - inKernels / total)).toFixed(2)} %; ms: ${top.join(', ')}`);
}

if (values.save) {
  const root = new URL('../..', import.meta.url).pathname;
  const command = `npx tsx -C source benchmarks/training/step.ts ${process.argv.slice(2).join(' ')}`;
  const about = provenance(root, command);
  const result = {
    provenance: about,
    options: values,
    peaks,
    runs: runs.map(({ recipe, record, kernels }) => ({ recipe, record, kernels })),
  };
  const head = `# A step of ${values.preset} by recipe\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n\n`;
  console.log(
    save(new URL('../results', import.meta.url).pathname, `step-recipes-${values.preset}`, result, `${head}${text}\n`),
  );
}
