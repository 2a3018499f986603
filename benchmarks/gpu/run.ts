// `npm run bench:gpu`: first the case table on the device, then the measurements. Writes benchmarks/results/DATE-gpu-NAME.json
// and .md, after each part anew, so that a run that is cut short keeps what it has. With FP8_CUDA=sim everything runs in small
// form to prove its logic; no figure is then measured, printed or kept.
//
//   npm run bench:gpu -- [--only PART,PART] [--steps N] [--out FOLDER]      parts: cases, kernels, gemm, layer, models, peers
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { type CudaBackend, checkCases, cudaBackend } from 'cuda-backend';
import { UserError } from 'fp8-core';
import { provenance, save, table } from '../report.mjs';
import { measureBandwidth, measureProducts } from './kernels.ts';
import { measureLayers } from './layer.ts';
import { measureModels } from './models.ts';

const root = join(import.meta.dirname, '../..');
const argument = (name: string): string | undefined => {
  const at = process.argv.indexOf(`--${name}`);
  return at > 0 ? process.argv[at + 1] : undefined;
};
const number = (v: number | null, digits: number): string => (v === null ? '' : v.toFixed(digits));

/** What a part found: for the JSON, for the Markdown, and whether the parts after it make sense. */
interface Part {
  result: unknown;
  text: string;
  failed?: boolean;
}

const parts: Record<string, (backend: CudaBackend) => Part | null> = {
  cases(backend) {
    const { passed, failures } = checkCases(backend, backend.simulated ? 'quantize' : undefined);
    for (const line of failures) console.error(line);
    const text = `Case table: ${passed} passed, ${failures.length} failed.`;
    return { result: { passed, failed: failures.length }, text, failed: failures.length > 0 };
  },
  kernels(backend) {
    const result = measureBandwidth(backend);
    const cells = result.map((r) => [r.kernel, number(r.gigabytesPerSecond, 0), number(r.share, 3)]);
    return { result, text: `## Memory-bound kernels\n\n${table(['kernel', 'GB/s', 'of copy'], cells)}` };
  },
  gemm(backend) {
    const result = measureProducts(backend);
    const cells = result.map((r) => [
      r.layer,
      `${r.m} x ${r.n} x ${r.k}`,
      number(r.bf16Tflops, 0),
      number(r.fp8Tflops, 0),
      number(r.ratio, 2),
    ]);
    const head = ['layer', 'm x n x k', 'bf16 TFLOP/s', 'FP8 TFLOP/s', 'ratio'];
    return { result, text: `## Products\n\n${table(head, cells)}` };
  },
  layer(backend) {
    const result = measureLayers(backend);
    const cells = result.map((r) => [r.layer, r.recipe, `${r.batch} x ${r.seq}`, number(r.ms, 2), number(r.tflops, 0)]);
    const head = ['layer', 'recipe', 'tokens', 'ms', 'TFLOP/s'];
    return { result, text: `## One layer: forward, backward, update\n\n${table(head, cells)}` };
  },
  models(backend) {
    const result = measureModels(backend, Number(argument('steps') ?? 20));
    const cells = result.map((r) => [
      r.preset,
      r.recipe,
      `${r.batch} x ${r.seq}`,
      r.failure ?? number(r.tokensPerSecond, 0),
      number(r.tflops, 0),
      number(r.peakGiB, 1),
    ]);
    const head = ['model', 'recipe', 'tokens', 'tokens/s', 'TFLOP/s', 'peak GiB'];
    return { result, text: `## Models\n\n${table(head, cells)}` };
  },
  peers(backend) {
    const tiny = backend.simulated ? ['--check'] : [];
    const peer = spawnSync('python3', [join(import.meta.dirname, 'torch_gpu.py'), ...tiny], { encoding: 'utf8' });
    const text = peer.status === 0 ? peer.stdout.trim() : '';
    if (!text.startsWith('{')) {
      console.log(`PyTorch: left out (${(peer.stderr ?? '').trim().split('\n').at(-1) || 'python3 is not there'})`);
      return null;
    }
    const result = text.split('\n').map((line) => JSON.parse(line));
    return {
      result,
      text: `## PyTorch on the same GPU\n\n\`\`\`json\n${result.map((row) => JSON.stringify(row)).join('\n')}\n\`\`\``,
    };
  },
};

function run(): number {
  const only = argument('only')?.split(',') ?? Object.keys(parts);
  const unknown = only.find((name) => !Object.hasOwn(parts, name));
  if (unknown !== undefined)
    throw new UserError(`--only ${unknown}: there is no such part; there are ${Object.keys(parts).join(', ')}`);
  const backend = cudaBackend();
  console.log(backend.describe());
  console.log(`cuBLASLt: ${backend.cublaslt}`);
  const from = provenance(root, `npm run bench:gpu ${process.argv.slice(2).join(' ')}`.trim());
  const result: { provenance: typeof from } & Record<string, unknown> = {
    provenance: from,
    device: backend.describe(),
    cublaslt: backend.cublaslt,
  };
  const facts = [`device: ${backend.describe()}`, `cuBLASLt: ${backend.cublaslt}`];
  for (const [name, value] of Object.entries(from)) facts.push(`${name}: ${value}`);
  let text = `# ${backend.device}\n\n${facts.map((line) => `- ${line}`).join('\n')}\n`;
  const folder = argument('out') ?? join(root, 'benchmarks/results');
  for (const name of only) {
    const part = parts[name](backend);
    if (!part) continue;
    if (backend.simulated) {
      console.log(`${name}: ran`);
    } else {
      console.log(`\n${part.text}`);
      result[name] = part.result;
      text += `\n${part.text}\n`;
      save(folder, `gpu-${backend.device.toLowerCase().replaceAll(/\W+/g, '-')}`, result, text);
    }
    if (part.failed) return 1; // no figure of a device that computes something else
  }
  if (backend.simulated) console.log('simulated device: figures from it mean nothing, so none are kept');
  return 0;
}

try {
  process.exitCode = run();
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
