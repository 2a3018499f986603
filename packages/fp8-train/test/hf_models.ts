// The tiny models of golden/hf, which PyTorch twins made with transformers' names and formulas (benchmarks/oracle/torch_hf.py), and copies
// of them that something is wrong with.
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';

export const models = ['gpt2', 'gpt2-bare', 'llama', 'llama-shards'] as const;
export type ModelName = (typeof models)[number];

export const golden = (name: ModelName): string => fileURLToPath(new URL(`golden/hf/${name}`, import.meta.url));

/** A folder of the test file's own, removed at its end. */
export const folder = mkdtempSync(join(tmpdir(), 'fp8-hf-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let made = 0;
/** A path where nothing is yet. */
export const fresh = (): string => join(folder, String(made++));
export const readJson = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'));

/** A copy of a golden model with fields of config.json changed. */
export function withConfig(name: ModelName, fields: object): string {
  const dir = fresh();
  cpSync(golden(name), dir, { recursive: true });
  writeFileSync(join(dir, 'config.json'), JSON.stringify({ ...readJson(dir, 'config.json'), ...fields }));
  return dir;
}

/** A copy whose safetensors header is changed; the tensors stay as they are. */
export function withHeader(name: ModelName, change: (header: Record<string, Entry>) => void): string {
  const dir = withConfig(name, {});
  const file = join(dir, 'model.safetensors');
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
  change(header);
  const text = Buffer.from(JSON.stringify(header));
  const first8 = Buffer.alloc(8);
  first8.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([first8, text, bytes.subarray(8 + length)]));
  return dir;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}
