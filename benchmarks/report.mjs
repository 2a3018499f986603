// What a dated result must carry: the machine, the commit and the command; and the writing of it, aside and renamed.
import { execFileSync } from 'node:child_process';
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';

function git(root, ...args) {
  try {
    return execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return undefined;
  }
}

/** The machine, time and commit that a figure belongs to, and the command that gave it. */
export function provenance(root, command) {
  // A bundle knows the commit it was packed from.
  const commit = process.env.FP8LM_COMMIT ?? git(root, 'rev-parse', '--short=12', 'HEAD') ?? 'unknown';
  const dirty =
    !process.env.FP8LM_COMMIT && git(root, 'status', '--porcelain', '--untracked-files=no')
      ? ' with local changes'
      : '';
  return {
    date: new Date().toISOString(),
    cpu: cpus()[0]?.model ?? 'unknown',
    threads: availableParallelism(),
    memoryGB: Math.round(totalmem() / 1e9),
    kernel: release(),
    node: process.version,
    commit: commit + dirty,
    command,
  };
}

/** Middle value; the mean of the two middle ones when their number is even. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** Rows of cells as a Markdown table that is also legible as text. */
export function table(head, rows) {
  const widths = head.map((cell, i) => Math.max(3, cell.length, ...rows.map((row) => row[i].length)));
  const line = (cells) => `| ${cells.map((c, i) => (i ? c.padStart(widths[i]) : c.padEnd(widths[i]))).join(' | ')} |`;
  const rule = `| ${widths.map((w, i) => (i ? `${'-'.repeat(w - 1)}:` : '-'.repeat(w))).join(' | ')} |`;
  return [line(head), rule, ...rows.map(line)].join('\n');
}

function writeAside(path, text) {
  const aside = `${path}.tmp-${process.pid}`;
  const file = openSync(aside, 'w');
  writeSync(file, text);
  fsyncSync(file);
  closeSync(file);
  renameSync(aside, path);
}

/** Writes results/<date>-<name>.json and .md; returns the path without its ending. */
export function save(folder, name, result, markdown) {
  mkdirSync(folder, { recursive: true });
  const base = join(folder, `${result.provenance.date.slice(0, 10)}-${name}`);
  writeAside(`${base}.json`, `${JSON.stringify(result, null, 2)}\n`);
  writeAside(`${base}.md`, markdown);
  const directory = openSync(folder, 'r');
  fsyncSync(directory);
  closeSync(directory);
  return base;
}
