// The timeline of a schedule for people: as text, one row a rank, or as SVG.
import type { Simulation, Span } from './simulate.ts';

const letters = 'abcdefghijklmnopqrstuvwxyz';
const nameOf = ({ micro, chunk }: Span, chunks: boolean): string =>
  `${micro}${chunks ? (letters[chunk] ?? `.${chunk}`) : ''}`;

const hasChunks = (s: Simulation): boolean => s.spans.some((row) => row.some((span) => span.chunk > 0));

/**
 * One row a rank, time to the right: `3` is the forward of micro-batch 3, `(3)` its backward, a dot is idle time. With several
 * chunks a rank, a letter names the chunk.
 * @param unit time of one cell; every span must take a whole number of them
 */
export function drawText(simulation: Simulation, unit = 1): string {
  const chunks = hasChunks(simulation);
  const names = simulation.spans.flat().map((s) => nameOf(s, chunks).length);
  const width = Math.max(3, ...names) + (Math.max(0, ...names) > 2 ? 2 : 1);
  const numCells = Math.round(simulation.end / unit);
  return simulation.spans
    .map((spans, rank) => {
      let line = '';
      let at = 0;
      const idle = (until: number): void => {
        for (; at < until; at++) line += '·'.padStart(Math.ceil(width / 2)).padEnd(width);
      };
      for (const span of spans) {
        const begin = Math.round(span.begin / unit);
        const end = Math.round(span.end / unit);
        idle(begin);
        line += cell(span, (end - begin) * width, chunks);
        at = end;
      }
      idle(numCells);
      return `rank ${String(rank).padEnd(2)} |${line}|`;
    })
    .join('\n');
}

function cell(span: Span, width: number, chunks: boolean): string {
  const text = nameOf(span, chunks);
  const [open, close] = span.op === 'forward' ? [' ', ' '] : ['(', ')'];
  const inner = width - 2;
  const left = Math.floor((inner - text.length) / 2);
  return open + text.padStart(text.length + Math.max(0, left)).padEnd(inner) + close;
}

/** The same as an SVG document; forwards blue, backwards green, a shade for each chunk. */
export function drawSvg(simulation: Simulation, title: string): string {
  const rowHeight = 26;
  const left = 56;
  const top = 34;
  const scale = Math.max(6, Math.min(26, 1400 / Math.max(1, simulation.end)));
  const width = Math.ceil(left + simulation.end * scale + 12);
  const height = top + simulation.spans.length * rowHeight + 10;
  const chunks = hasChunks(simulation);
  const numChunks = 1 + Math.max(0, ...simulation.spans.flat().map((s) => s.chunk));
  const parts: string[] = [];
  simulation.spans.forEach((spans, rank) => {
    const y = top + rank * rowHeight;
    parts.push(`<text x="8" y="${y + 16}">rank ${rank}</text>`);
    parts.push(
      `<rect x="${left}" y="${y}" width="${fixed(simulation.end * scale)}" height="${rowHeight - 4}" fill="#eceff1"/>`,
    );
    for (const span of spans) {
      const x = left + span.begin * scale;
      const w = (span.end - span.begin) * scale;
      const light = 62 + Math.round((24 * span.chunk) / numChunks);
      const fill = `hsl(${span.op === 'forward' ? 212 : 142}, 48%, ${light}%)`;
      parts.push(
        `<rect x="${fixed(x)}" y="${y}" width="${fixed(w)}" height="${rowHeight - 4}" fill="${fill}" stroke="#fff"/>` +
          `<text x="${fixed(x + w / 2)}" y="${y + 15}" text-anchor="middle">${nameOf(span, chunks)}</text>`,
      );
    }
  });
  const escaped = title.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="#fff"/>
<text x="8" y="20" font-size="13">${escaped}</text>
${parts.join('\n')}
</svg>
`;
}

const fixed = (x: number): string => x.toFixed(1).replace(/\.0$/, '');
