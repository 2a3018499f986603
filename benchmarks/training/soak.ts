// Two promises of every recipe, checked over a run: the bytes that live after step 10 are those after step 1,000, and the same
// seed gives the same bits twice.
//
//   npx tsx -C source benchmarks/training/soak.ts [--preset gpt-nano] [--recipes fp32,bf16,te,o1,o2,o3] [--batch 2] [--seq 32]
//       [--steps 1000] [--save]
//
// Bytes by our own ledger, by the allocator (live and kept), and the process's resident set after garbage is collected. Bits: the
// losses of all steps and every weight, master, moment and mu at the end, as one SHA-256. Exit code 1 if a promise is broken.
import { createHash } from 'node:crypto';
import { parseArgs } from 'node:util';
import { cpuBackend } from 'cpu-backend';
import { type Backend, ledger, modelContext, recipeNamed, type Tensor } from 'fp8-core';
import { Gpt, presetNamed } from 'fp8-models';
import { AdamW } from 'fp8-optim';
import { randomTokens, Sampler, Trainer } from 'fp8-train';
import { provenance, save, table } from '../report.mjs';

const { values } = parseArgs({
  options: {
    preset: { type: 'string', default: 'gpt-nano' },
    recipes: { type: 'string', default: 'fp32,bf16,te,o1,o2,o3' },
    batch: { type: 'string', default: '2' },
    seq: { type: 'string', default: '32' },
    steps: { type: 'string', default: '1000' },
    save: { type: 'boolean', default: false },
  },
});
const steps = Number(values.steps);
const backend = cpuBackend();

interface Bytes {
  ledger: number;
  allocated: number;
  reserved: number;
  resident: number;
}

function bytesNow(): Bytes {
  const { live, reserved } = backend.memory();
  const states = Object.values(ledger.live).reduce((sum, n) => sum + n, 0);
  return { ledger: states, allocated: live, reserved, resident: process.memoryUsage.rss() };
}

function hashTensor(hash: ReturnType<typeof createHash>, from: Backend, t: Tensor | null): void {
  if (!t) return;
  const bytes = new Uint8Array(t.numBytes);
  from.read(t.handle, bytes);
  hash.update(bytes);
}

function train(recipe: string) {
  const config = presetNamed(values.preset);
  const model = new Gpt(modelContext(backend, recipeNamed(recipe), 7), config);
  const optimizer = new AdamW(model.parameters());
  const batch = Number(values.batch);
  const trainer = new Trainer(model, optimizer, { batch, seq: Number(values.seq) });
  const sampler = new Sampler(randomTokens(config.vocabSize, 7), { seqLen: Number(values.seq) });
  const hash = createHash('sha256');
  let early: Bytes | null = null;
  for (let i = 1; i <= steps; i++) {
    const { loss } = trainer.step(() => sampler.nextBatch(batch), 1e-3);
    hash.update(new Uint8Array(Float64Array.of(loss).buffer));
    if (i === 10) early = bytesNow();
  }
  const late = bytesNow();
  for (const p of model.parameters()) {
    const { m, v } = optimizer.moments.get(p) ?? {};
    for (const t of [p.data, p.master, p.mu, m ?? null, v ?? null]) hashTensor(hash, backend, t);
  }
  optimizer.release();
  for (const p of model.parameters()) p.release();
  model.context.scaling.release();
  return { early: early as Bytes, late, bits: hash.digest('hex') };
}

let broken = 0;
const results = values.recipes.split(',').map((recipe) => {
  const [first, second] = [train(recipe), train(recipe)];
  const sameBytes = (['ledger', 'allocated', 'reserved'] as const).every((k) => first.early[k] === first.late[k]);
  const sameBits = first.bits === second.bits;
  if (!sameBytes || !sameBits) broken++;
  return { recipe, ...first, sameBytes, sameBits };
});
const text = table(
  [
    'recipe',
    'ledger, step 10',
    `step ${steps}`,
    'allocator, step 10',
    `step ${steps}`,
    'RSS MB',
    `step ${steps}`,
    'bits twice',
  ],
  results.map((r) => [
    r.recipe,
    String(r.early.ledger),
    String(r.late.ledger),
    String(r.early.allocated),
    String(r.late.allocated),
    (r.early.resident / 1e6).toFixed(1),
    (r.late.resident / 1e6).toFixed(1),
    r.sameBits ? `same (${r.bits.slice(0, 8)})` : 'differ',
  ]),
);
const command = `npx tsx -C source benchmarks/training/soak.ts ${process.argv.slice(2).join(' ')}`.trim();
const about = provenance(new URL('../..', import.meta.url).pathname, command);
console.log(`${values.preset}, batch ${values.batch}, sequence ${values.seq}, ${backend.describe()}`);
console.log(text);
if (values.save) {
  const head = `# Live bytes and bits over ${steps} steps of ${values.preset}\n\n${about.cpu}, ${about.date}, commit ${about.commit}\n\n    ${command}\n\n`;
  const folder = new URL('../results', import.meta.url).pathname;
  console.log(
    save(folder, `soak-${values.preset}`, { provenance: about, options: values, results }, `${head}${text}\n`),
  );
}
process.exitCode = broken > 0 ? 1 : 0;
