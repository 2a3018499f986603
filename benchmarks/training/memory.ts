// Bytes of weights, gradients and optimizer by recipe: by our own ledger, and by the process's resident set, each recipe in a
// process of its own so that nothing is shared.
//
//   npx tsx -C source benchmarks/training/memory.ts [--preset gpt2-124m] [--recipes bf16,o2] [--batch 4] [--seq 256] [--save]
//
// `resident` is what the process grew by from before the model was built until after the second step, with the caches of the
// allocator given back: states alone, no activations. `peak` is the whole process at its largest, activations included.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ledger, modelContext, recipeNamed } from 'fp8-core';
import { Gpt, presetNamed } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { backendFor, memorySummary, randomTokens, Sampler, Trainer } from 'fp8-train';
import { provenance, save, table } from '../report.mjs';

const { values } = parseArgs({
  options: {
    preset: { type: 'string', default: 'gpt2-124m' },
    recipes: { type: 'string', default: 'bf16,te,o1,o2,o3' },
    batch: { type: 'string', default: '4' },
    seq: { type: 'string', default: '256' },
    child: { type: 'string' },
    save: { type: 'boolean', default: false },
  },
});

const status = (field: string): number =>
  Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024;

function measure(recipe: string) {
  const backend = backendFor('auto');
  const batch = Number(values.batch);
  const seq = Number(values.seq);
  const config = presetNamed(values.preset);
  const sampler = new Sampler(randomTokens(config.vocabSize, 1), { seqLen: seq });
  const before = status('VmRSS');
  const model = new Gpt(modelContext(backend, recipeNamed(recipe), 1), config);
  const trainer = new Trainer(model, new AdamW(model.parameters()), { batch, seq });
  backend.trim();
  ledger.resetPeak();
  for (let i = 0; i < 2; i++) trainer.step(() => sampler.nextBatch(batch), 1e-4);
  const memory = memorySummary();
  backend.trim();
  const linear = model.parameters().filter((p) => p.kind === 'linear');
  const bytes = linear.reduce((sum, p) => {
    const { m, v } = trainer.optimizer.moments.get(p) ?? {};
    return (
      sum + [p.data, p.master, p.grad ?? p.gradForAccumulation().grad, m, v].reduce((s, t) => s + (t?.numBytes ?? 0), 0)
    );
  }, 0);
  return {
    recipe,
    memory,
    states: memory.weights + memory.gradients + memory.optimizer,
    linearBytesPerParameter: bytes / linear.reduce((sum, p) => sum + p.size, 0),
    resident: status('VmRSS') - before,
    peak: status('VmHWM'),
  };
}

if (values.child) {
  console.log(JSON.stringify(measure(values.child)));
} else {
  type Result = ReturnType<typeof measure>;
  const results = values.recipes.split(',').map((recipe): Result => {
    const args = ['--import', 'tsx', '-C', 'source', fileURLToPath(import.meta.url), '--child', recipe];
    const rest = ['--preset', values.preset, '--batch', values.batch, '--seq', values.seq];
    return JSON.parse(execFileSync(process.execPath, [...args, ...rest], { encoding: 'utf8' }));
  });
  const [first] = results;
  const mb = (bytes: number): string => (bytes / 1e6).toFixed(0);
  const rows = results.map((r) => [
    r.recipe,
    r.linearBytesPerParameter.toFixed(2),
    mb(r.states),
    (r.states / first.states).toFixed(3),
    mb(r.resident),
    (r.resident / first.resident).toFixed(3),
    mb(r.peak),
    (r.peak / first.peak).toFixed(3),
  ]);
  const text = table(
    ['recipe', 'bytes a linear parameter', 'states MB', 'ratio', 'resident MB', 'ratio', 'peak process MB', 'ratio'],
    rows,
  );
  console.log(text);
  if (values.save) {
    const root = new URL('../..', import.meta.url).pathname;
    const command = `npx tsx -C source benchmarks/training/memory.ts ${process.argv.slice(2).join(' ')}`;
    const about = provenance(root, command);
    const head = `# Memory of ${values.preset}\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n\n`;
    console.log(
      save(
        new URL('../results', import.meta.url).pathname,
        `memory-${values.preset}`,
        { provenance: about, results },
        `${head}${text}\n`,
      ),
    );
  }
}
