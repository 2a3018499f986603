// `npm run bench:gpu`: first the case table on the device, then the measurements. Writes benchmarks/results/DATE-gpu-NAME.json
// and .md. With FP8_CUDA=sim everything runs in small form to prove its logic; no figure is then measured, printed or kept.
//
//   npm run bench:gpu -- [--only cases|kernels|gemm|layer|models|peers] [--steps N] [--out FOLDER]
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { checkCases, cudaBackend } from 'cuda-backend';
import { UserError } from 'fp8-core';
import { provenance, save, table } from '../report.mjs';
import { measureBandwidth, measureProducts } from './kernels.ts';
import { measureLayers } from './layer.ts';
import { measureModels, type ModelResult } from './models.ts';

const root = join(import.meta.dirname, '../..');
const argument = (name: string): string | undefined => {
  const at = process.argv.indexOf(`--${name}`);
  return at > 0 ? process.argv[at + 1] : undefined;
};
const wants = (part: string): boolean => (argument('only') ?? part) === part;
const number = (v: number | null, digits: number): string => (v === null ? '' : v.toFixed(digits));

function run(): number {
  const backend = cudaBackend();
  console.log(backend.describe());
  console.log(`cuBLASLt: ${backend.cublaslt}`);
  const from = provenance(root, `npm run bench:gpu ${process.argv.slice(2).join(' ')}`.trim());
  const result = {
    provenance: from,
    device: backend.describe(),
    cublaslt: backend.cublaslt,
  } as { provenance: typeof from } & Record<string, unknown>;
  const sections: string[] = [];
  if (wants('cases')) {
    const { passed, failures } = checkCases(backend, backend.simulated ? 'quantize' : undefined);
    for (const line of failures) console.error(line);
    console.log(`case table: ${passed} passed, ${failures.length} failed`);
    result.cases = { passed, failed: failures.length };
    sections.push(`Case table: ${passed} passed, ${failures.length} failed.`);
    if (failures.length > 0) return 1; // no figure of a device that computes something else
  }
  if (wants('kernels')) {
    const rows = (result.kernels = measureBandwidth(backend));
    const cells = rows.map((r) => [r.kernel, number(r.gigabytesPerSecond, 0), number(r.share, 3)]);
    sections.push(`## Memory-bound kernels\n\n${table(['kernel', 'GB/s', 'of copy'], cells)}`);
  }
  if (wants('gemm')) {
    const rows = (result.gemm = measureProducts(backend));
    const cells = rows.map((r) => [
      r.layer,
      `${r.m} x ${r.n} x ${r.k}`,
      number(r.bf16Tflops, 0),
      number(r.fp8Tflops, 0),
      number(r.ratio, 2),
    ]);
    sections.push(`## Products\n\n${table(['layer', 'm x n x k', 'bf16 TFLOP/s', 'FP8 TFLOP/s', 'ratio'], cells)}`);
  }
  if (wants('layer')) {
    const rows = (result.layers = measureLayers(backend));
    const cells = rows.map((r) => [r.layer, r.recipe, `${r.batch} x ${r.seq}`, number(r.ms, 2), number(r.tflops, 0)]);
    sections.push(
      `## One layer: forward, backward, update\n\n${table(['layer', 'recipe', 'tokens', 'ms', 'TFLOP/s'], cells)}`,
    );
  }
  if (wants('models')) {
    const rows: ModelResult[] = (result.models = measureModels(backend, Number(argument('steps') ?? 20)));
    const cells = rows.map((r) => [
      r.preset,
      r.recipe,
      String(r.batch),
      r.failure ?? number(r.tokensPerSecond, 0),
      number(r.tflops, 1),
      number(r.peakGiB, 1),
    ]);
    const head = ['model', 'recipe', 'batch', 'tokens/s', 'TFLOP/s', 'peak GiB'];
    sections.push(`## Models\n\n${table(head, cells)}`);
  }
  if (wants('peers')) {
    const tiny = backend.simulated ? ['--check'] : [];
    const peer = spawnSync('python3', [join(import.meta.dirname, 'torch_gpu.py'), ...tiny], { encoding: 'utf8' });
    const text = peer.status === 0 ? peer.stdout.trim() : '';
    if (text.startsWith('{')) {
      result.peers = text.split('\n').map((line) => JSON.parse(line));
      sections.push(`## PyTorch on the same GPU\n\n\`\`\`json\n${JSON.stringify(result.peers, null, 1)}\n\`\`\``);
    } else
      console.log(`PyTorch: left out (${(peer.stderr ?? '').trim().split('\n').at(-1) || 'python3 is not there'})`);
  }
  if (backend.simulated) {
    console.log(`simulated device: ${sections.length} sections ran; figures from it mean nothing, so none are kept`);
    return 0;
  }
  const facts = [
    `device: ${backend.describe()}`,
    `cuBLASLt: ${backend.cublaslt}`,
    ...Object.entries(from).map((e) => e.join(': ')),
  ];
  const text = `# ${backend.device}\n\n${facts.map((line) => `- ${line}`).join('\n')}\n\n${sections.join('\n\n')}\n`;
  save(
    argument('out') ?? join(root, 'benchmarks/results'),
    `gpu-${backend.device.toLowerCase().replaceAll(/\W+/g, '-')}`,
    result,
    text,
  );
  console.log(text);
  return 0;
}

try {
  process.exitCode = run();
} catch (error) {
  if (!(error instanceof UserError)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
