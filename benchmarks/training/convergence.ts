// Validation loss by recipe: does FP8 train as well as BF16? Runs every recipe with every seed on the built-in text (3 MB of
// TypeScript declarations), the same batches for all, and compares the means on held-out text.
//
//   npx tsx -C source benchmarks/training/convergence.ts [--model gpt-12m] [--steps 1000] [--batch 4] [--seq 128]
//       [--recipes bf16,o2] [--seeds 1,2,3] [--others o1,te,o3] [--save]
//
// `--others` run with the first seed only. Each run's curve goes into the JSON; --save writes results/<date>-convergence-*.
import { parseArgs } from 'node:util';
import { type RunSummary, runTraining } from 'fp8-train';
import { provenance, save, table } from '../report.mjs';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: 'gpt-12m' },
    steps: { type: 'string', default: '1000' },
    batch: { type: 'string', default: '4' },
    seq: { type: 'string', default: '128' },
    lr: { type: 'string', default: '1e-3' },
    recipes: { type: 'string', default: 'bf16,o2' },
    seeds: { type: 'string', default: '1,2,3' },
    others: { type: 'string', default: 'o1,te,o3' },
    save: { type: 'boolean', default: false },
  },
});

interface Result {
  recipe: string;
  seed: number;
  summary: RunSummary;
  minutes: number;
  curve: [step: number, loss: number][];
  evaluations: [step: number, valLoss: number][];
}

const steps = Number(values.steps);

async function run(recipe: string, seed: number): Promise<Result> {
  const begin = performance.now();
  const curve: Result['curve'] = [];
  const evaluations: Result['evaluations'] = [];
  const summary = await runTraining(
    {
      model: values.model,
      recipe,
      seed,
      steps,
      batch: Number(values.batch),
      seq: Number(values.seq),
      lr: Number(values.lr),
      warmupSteps: Math.ceil(steps / 20),
      evalEvery: Math.ceil(steps / 5),
      evalBatches: 64,
    },
    (e) => {
      if (e.type === 'step' && e.step % 10 === 0) curve.push([e.step, e.loss]);
      if (e.type === 'step' && e.step % 100 === 0) {
        process.stderr.write(
          `${recipe} seed ${seed} step ${e.step}/${steps} loss ${e.loss.toFixed(3)} ${e.tokensPerSecond.toFixed(0)} tokens/s\n`,
        );
      }
      if (e.type === 'eval') evaluations.push([e.step, e.valLoss]);
    },
  );
  return { recipe, seed, summary, minutes: (performance.now() - begin) / 60_000, curve, evaluations };
}

const results: Result[] = [];
const seeds = values.seeds.split(',').map(Number);
const recipes = values.recipes.split(',');
for (const seed of seeds) for (const recipe of recipes) results.push(await run(recipe, seed));
for (const recipe of values.others ? values.others.split(',') : []) results.push(await run(recipe, seeds[0]));

const lossOf = (recipe: string, seed: number): number | null =>
  results.find((r) => r.recipe === recipe && r.seed === seed)?.summary.valLoss ?? null;
const baseline = recipes[0];
const names = [...new Set(results.map((r) => r.recipe))];
const rows = names.map((recipe) => {
  // Against the baseline over the seeds that this recipe ran with.
  const shared = seeds.filter((seed) => lossOf(recipe, seed) !== null);
  const mean = (name: string): number =>
    shared.reduce((sum, seed) => sum + (lossOf(name, seed) as number), 0) / shared.length;
  const relative = mean(recipe) / mean(baseline) - 1;
  return [
    recipe,
    String(shared.length),
    mean(recipe).toFixed(4),
    `${relative >= 0 ? '+' : ''}${(100 * relative).toFixed(2)} %`,
  ];
});
const text = table(['recipe', 'seeds', 'validation loss', `against ${baseline}`], rows);
console.log(text);

if (values.save) {
  const root = new URL('../..', import.meta.url).pathname;
  const command = `npx tsx -C source benchmarks/training/convergence.ts ${process.argv.slice(2).join(' ')}`;
  const about = provenance(root, command);
  const result = { provenance: about, options: values, results };
  const head = `# Convergence of ${values.model}, ${steps} steps\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n\n`;
  console.log(
    save(new URL('../results', import.meta.url).pathname, `convergence-${values.model}`, result, `${head}${text}\n`),
  );
}
