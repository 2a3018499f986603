/**
 * Checkpoints that survive a killed process, a full disk and a power cut, and that notice a flipped bit.
 *
 *   DIR/latest             the name of the newest, e.g. `step-120`
 *   DIR/step-120/          *.safetensors, *.json, manifest.json
 *   DIR/step-120.tmp-PID/  while it is written
 *
 * Order of events: write all files and the pointer aside, force each and the folder to the disk, rename the folder,
 * force its parent, rename the pointer, then remove what is no longer kept. At each moment at least one whole checkpoint
 * stands (once there has been one), and only a whole one is called `step-N`. What dead writers leave is removed by the
 * next writer. Two live writers to one folder are not supported.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { codeOf, explainDisk, removeQuietly, syncFolder, writeDurably } from './atomic.ts';
import { type FileRecord, formatManifest, isPlainFileName, MANIFEST } from './checkpoint_manifest.ts';
import { sha256, type TensorSource, writeSafetensors } from './safetensors.ts';

export interface CheckpointFile {
  /** Plain name, e.g. `model.safetensors`. */
  name: string;
  tensors: Iterable<TensorSource>;
  metadata?: Record<string, string>;
}

export interface WriteCheckpointOptions {
  /** Newest checkpoints to keep, at least 1. Default 3. */
  keep?: number;
}

/**
 * Saves a checkpoint as `DIR/step-N` and makes it the latest. When it returns, the checkpoint is on the disk.
 * @param json each key becomes `KEY.json`: `{ config, tokenizer, trainer }`; numbers must be finite
 * @throws UserError when the disk refuses (full, read-only …): the partial one is removed, the previous stand
 */
export function writeCheckpoint(
  dir: string,
  step: number,
  files: Iterable<CheckpointFile>,
  json: Record<string, unknown>,
  options: WriteCheckpointOptions = {},
): { path: string; numBytes: number } {
  const keep = options.keep ?? 3;
  if (!Number.isSafeInteger(step) || step < 0)
    throw new RangeError(`writeCheckpoint: step is ${step}; it must be a count`);
  if (!Number.isSafeInteger(keep) || keep < 1)
    throw new RangeError(`writeCheckpoint: keep is ${keep}; keep at least 1`);
  const name = `step-${step}`;
  const path = join(dir, name);
  const aside = `${path}.tmp-${process.pid}`;
  const pointerAside = join(dir, `latest.tmp-${process.pid}`);
  const displaced = `${path}.old-${process.pid}`;
  try {
    mkdirSync(dir, { recursive: true });
    removeLeftovers(dir);
    mkdirSync(aside);
    const records: Record<string, FileRecord> = Object.create(null);
    const claim = (file: string) => {
      if (!isPlainFileName(file) || file === MANIFEST)
        throw new RangeError(
          `writeCheckpoint: ${JSON.stringify(file)} cannot be a file name; use letters, digits, . _ -`,
        );
      if (file in records) throw new RangeError(`writeCheckpoint: two files are called ${file}`);
      return join(aside, file);
    };
    for (const file of files) records[file.name] = writeSafetensors(claim(file.name), file.tensors, file.metadata);
    for (const [key, value] of Object.entries(json)) {
      const text = stringifyFinite(value, key);
      records[`${key}.json`] = { size: writeDurably(claim(`${key}.json`), [text]), sha256: sha256(text) };
    }
    const manifestSize = writeDurably(join(aside, MANIFEST), [formatManifest({ step, files: records })]);
    syncFolder(aside);
    // Space for the pointer is taken before the folder gets its name, so a full disk cannot come between the two.
    writeDurably(pointerAside, [`${name}\n`]);
    if (exists(path)) renameSync(path, displaced); // the same step again, after a resume from an earlier one
    renameSync(aside, path);
    syncFolder(dir);
    renameSync(pointerAside, join(dir, 'latest'));
    syncFolder(dir);
    removeQuietly(displaced);
    keepNewest(dir, keep, step);
    return { path, numBytes: Object.values(records).reduce((sum, record) => sum + record.size, manifestSize) };
  } catch (error) {
    removeQuietly(aside);
    removeQuietly(pointerAside);
    if (exists(displaced) && !exists(path)) renameSync(displaced, path);
    throw explainDisk(error, 'write', path, '; the checkpoints before it are intact');
  }
}

/**
 * Whole checkpoints of a folder, the latest first; `[]` if the folder is not there. The first is the one that `latest`
 * names, the others follow by falling step; without a usable pointer all do. (A writer that died just before the
 * pointer leaves a newer whole checkpoint in second place: resuming from the one before is right too.)
 */
export function listCheckpoints(dir: string): { step: number; path: string }[] {
  const found = new Map<number, string>();
  for (const name of namesIn(dir)) {
    const match = /^step-(\d+)(\.old-\d+)?$/.exec(name);
    if (match === null || !exists(join(dir, name, MANIFEST))) continue;
    // `.old` stands in for a step whose replacement never came.
    if (match[2] === undefined || !found.has(Number(match[1]))) found.set(Number(match[1]), join(dir, name));
  }
  const pointed = pointedStep(dir);
  return [...found]
    .map(([step, path]) => ({ step, path }))
    .sort((a, b) => Number(b.step === pointed) - Number(a.step === pointed) || b.step - a.step);
}

/** The latest checkpoint of a folder, or undefined. */
export function latestCheckpoint(dir: string): { step: number; path: string } | undefined {
  return listCheckpoints(dir)[0];
}

function pointedStep(dir: string): number | undefined {
  try {
    const match = /^step-(\d+)\n?$/.exec(readFileSync(join(dir, 'latest'), 'utf8'));
    return match === null ? undefined : Number(match[1]);
  } catch {
    return undefined; // lost or unreadable: the folders speak for themselves
  }
}

/** Removes what dead writers left, and puts back a checkpoint that was about to be replaced. */
export function removeLeftovers(dir: string): void {
  for (const name of namesIn(dir)) {
    const match = /^(.+)\.(tmp|old)-(\d+)$/.exec(name);
    if (
      match === null ||
      (match[1] !== 'latest' && !/^step-\d+$/.test(match[1])) ||
      isLiveWriter(Number(match[3]), join(dir, name))
    )
      continue;
    if (match[2] === 'old' && !exists(join(dir, match[1]))) renameSync(join(dir, name), join(dir, match[1]));
    else removeQuietly(join(dir, name));
  }
}

/**
 * Removes all but the `keep` checkpoints written last. By time, not by step: after a resume from an earlier step the
 * steps beyond it are of an abandoned branch and go first.
 */
function keepNewest(dir: string, keep: number, current: number): void {
  const others = listCheckpoints(dir)
    .filter(({ step }) => step !== current)
    .map((entry) => ({ ...entry, time: statSync(join(entry.path, MANIFEST)).mtimeMs }))
    .sort((a, b) => b.time - a.time || b.step - a.step);
  for (const { step, path } of others.slice(keep - 1)) {
    const doomed = join(dir, `step-${step}.tmp-${process.pid}`);
    try {
      renameSync(path, doomed); // so that half a removed checkpoint never looks whole
    } catch {
      continue; // not worth failing a save that has succeeded
    }
    removeQuietly(doomed);
  }
}

/** Writing is synchronous, so whatever carries our own id is from an earlier owner of that id or a failed attempt. */
export function isLiveWriter(pid: number, path: string): boolean {
  if (pid === process.pid) return false;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (codeOf(error) === 'ESRCH') return false;
  }
  // Ids are reused: nobody writes one checkpoint for a day.
  try {
    return Date.now() - statSync(path).mtimeMs < 24 * 3600 * 1000;
  } catch {
    return false;
  }
}

function namesIn(dir: string): string[] {
  try {
    return readdirSync(dir).sort();
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw explainDisk(error, 'read', dir);
  }
}

/** JSON turns NaN and infinity into null without a word, and resume would then differ. */
function stringifyFinite(value: unknown, key: string): string {
  const text = JSON.stringify(
    value,
    (name, entry: unknown) => {
      if (typeof entry === 'number' && !Number.isFinite(entry))
        throw new RangeError(`writeCheckpoint: ${key}.json would hold ${entry} at "${name}"; JSON has no such number`);
      if (ArrayBuffer.isView(entry))
        throw new RangeError(
          `writeCheckpoint: ${key}.json would hold a typed array at "${name}"; store it as a tensor`,
        );
      return entry;
    },
    1,
  );
  if (text === undefined) throw new RangeError(`writeCheckpoint: ${key} has no JSON`);
  return `${text}\n`;
}

function exists(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false; // a part of the path is not a folder
  }
}
