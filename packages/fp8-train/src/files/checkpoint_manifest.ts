/**
 * The manifest of a checkpoint: every file with its size and SHA-256 sums, taken from memory at the snapshot. It is
 * written last in the folder, and carries a sum of itself.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from 'fp8-core';
import { explainDisk } from './atomic.ts';
import { sha256, type WrittenSafetensors } from './safetensors.ts';

export const MANIFEST = 'manifest.json';
const FORMAT = 'fp8lm-checkpoint';
const VERSION = 1;

/** JSON files have one sum, safetensors files one for the header and one per tensor. */
export type FileRecord = { size: number; sha256: string } | WrittenSafetensors;

export interface Manifest {
  step: number;
  files: Record<string, FileRecord>;
}

/** File names are plain: they come from a manifest that anybody may have written. */
export const isPlainFileName = (name: string): boolean =>
  /^[a-z0-9][a-z0-9._-]{0,199}$/i.test(name) && !name.includes('..') && !name.endsWith('.');

export function formatManifest(manifest: Manifest): string {
  const body = { format: FORMAT, version: VERSION, step: manifest.step, files: manifest.files };
  return `${JSON.stringify({ ...body, sum: sha256(JSON.stringify(body)) }, null, 1)}\n`;
}

/** Reads and checks the manifest of a checkpoint folder. @throws UserError naming the file and what is wrong */
export function readManifest(dir: string): Manifest {
  const path = join(dir, MANIFEST);
  let parsed: Record<string, unknown>;
  try {
    parsed = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  } catch (error) {
    if (error instanceof SyntaxError) throw damaged(path, 'it is not valid JSON');
    throw explainDisk(error, 'read', path, '; a checkpoint folder has one, written last');
  }
  if (typeof parsed !== 'object' || parsed === null || parsed.format !== FORMAT)
    throw new UserError(`${path} is not a checkpoint manifest: "format" is not ${FORMAT}`);
  if (parsed.version !== VERSION)
    throw new UserError(`${path} has version ${parsed.version}; this program reads version ${VERSION}`);
  const { sum, ...body } = parsed;
  if (sum !== sha256(JSON.stringify(body))) throw damaged(path, 'its content does not match its own checksum');
  const { step, files } = body as unknown as Manifest;
  if (!Number.isSafeInteger(step) || step < 0 || typeof files !== 'object' || files === null)
    throw damaged(path, 'step or files are missing');
  for (const [name, record] of Object.entries(files)) {
    if (!isPlainFileName(name))
      throw new UserError(`${path} names the file ${JSON.stringify(name)}; only plain names are allowed`);
    if (typeof record !== 'object' || record === null) throw damaged(path, `the entry of ${name} is missing`);
    const isKnown =
      'tensors' in record
        ? typeof record.header === 'string' && typeof record.tensors === 'object' && record.tensors !== null
        : typeof record.sha256 === 'string';
    if (!Number.isSafeInteger(record.size) || !isKnown) throw damaged(path, `the entry of ${name} is incomplete`);
  }
  return { step, files };
}

const damaged = (path: string, reason: string) =>
  new UserError(`${path} is damaged: ${reason}; use an earlier checkpoint`);
