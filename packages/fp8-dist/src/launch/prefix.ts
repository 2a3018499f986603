import type { Readable, Writable } from 'node:stream';

/** Copies whole lines with a prefix, so that ranks' outputs do not mix within a line. */
export function prefixLines(from: Readable, to: Writable, prefix: string): void {
  let rest = '';
  from.setEncoding('utf8');
  from.on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop() as string;
    // A progress line that never ends must not grow without bound.
    if (rest.length > 65_536) {
      lines.push(rest);
      rest = '';
    }
    if (lines.length) to.write(lines.map((line) => `${prefix}${line}\n`).join(''));
  });
  from.on('end', () => {
    if (rest) to.write(`${prefix}${rest}\n`);
  });
}
