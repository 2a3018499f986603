// stdout: results for people or JSON lines for programs. stderr: notes, progress, errors.
import pc from 'picocolors';
import { exitCodes } from './errors.ts';

export const print = (text = ''): void => void process.stdout.write(`${text}\n`);
export const note = (text: string): void => void process.stderr.write(`${text}\n`);
/** One object as one line. Numbers that JSON lacks (NaN, infinity) become null. */
export const printJson = (value: unknown): void => print(JSON.stringify(value));

/** A reader that went away (`| head`) ends the process without a word, as it does with other tools. */
export function quietBrokenPipe(): void {
  for (const stream of [process.stdout, process.stderr])
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(exitCodes.brokenPipe);
      throw error;
    });
}

/** Rows of cells in aligned columns, the first to the left, the others to the right; the head row is dimmed. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows
    .map((row, r) => {
      const line = row.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('  ');
      return `  ${r === 0 ? pc.dim(line) : line}`;
    })
    .join('\n');
}

/** `name   value` lines. */
export function facts(pairs: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, value]) => `  ${pc.dim(name.padEnd(width))}  ${value}`).join('\n');
}
