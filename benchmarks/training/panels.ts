// Line charts side by side as one SVG: a value a label, one line a series. Just enough for a result's picture.
export interface Panel {
  title: string;
  /** Logarithmic axis; values above 0. */
  log: boolean;
  series: { name: string; values: number[] }[];
}

const colors = ['#4269d0', '#ff725c', '#3ca951'];
const width = 300;
const height = 190;
const margin = { left: 46, top: 28, right: 12, bottom: 26 };

/** @param labels of the x axis, shown as first and last and as tooltips */
export function panels(labels: readonly string[], list: readonly Panel[]): string {
  const total = list.length * (width + margin.left + margin.right);
  const body = list.map(
    (panel, i) =>
      `<g transform="translate(${i * (width + margin.left + margin.right) + margin.left},${margin.top})">${draw(labels, panel)}</g>`,
  );
  const legend = list[0].series.map(
    ({ name }, i) =>
      `<g transform="translate(${margin.left + 120 * i},${height + margin.top + margin.bottom + 8})"><rect width="12" height="3" y="-4" fill="${colors[i]}"/><text x="17">${name}</text></g>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${total} ${height + margin.top + margin.bottom + 18}" font-family="sans-serif" font-size="11" fill="#222">
<rect width="100%" height="100%" fill="#fff"/>
${body.join('\n')}
${legend.join('\n')}
</svg>
`;
}

function draw(labels: readonly string[], { title, log, series }: Panel): string {
  const place = log ? Math.log10 : (v: number) => v;
  const all = series.flatMap(({ values }) => values.map(place));
  const [low, high] = log
    ? [Math.floor(Math.min(...all)), Math.ceil(Math.max(...all) + 1e-9)]
    : [Math.floor(Math.min(...all) - 0.5), Math.ceil(Math.max(...all) + 0.5)];
  const x = (i: number): number => (labels.length === 1 ? width / 2 : (i * width) / (labels.length - 1));
  const y = (v: number): number => height - ((place(v) - low) / Math.max(1e-9, high - low)) * height;
  const ticks = Array.from({ length: 5 }, (_, i) => low + ((high - low) * i) / 4);
  const grid = ticks.map((t) => {
    const at = (height - ((t - low) / (high - low)) * height).toFixed(1);
    const text = log ? (10 ** t).toExponential(0) : t.toFixed(1);
    return `<line x2="${width}" y1="${at}" y2="${at}" stroke="#ddd"/><text x="-6" y="${at}" text-anchor="end" dominant-baseline="middle">${text}</text>`;
  });
  const lines = series.map(({ values, name }, s) => {
    const points = values.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`);
    const dots = values.map(
      (v, i) =>
        `<circle cx="${x(i).toFixed(1)}" cy="${y(v).toFixed(1)}" r="2.2" fill="${colors[s]}"><title>${labels[i]}, ${name}: ${v.toPrecision(3)}</title></circle>`,
    );
    return `<polyline points="${points.join(' ')}" fill="none" stroke="${colors[s]}" stroke-width="1.5"/>${dots.join('')}`;
  });
  const ends = `<text y="${height + 16}">${labels[0]}</text><text x="${width}" y="${height + 16}" text-anchor="end">${labels[labels.length - 1]}</text>`;
  return `<text y="-10" font-weight="bold">${title}</text>${grid.join('')}${lines.join('')}${ends}`;
}
