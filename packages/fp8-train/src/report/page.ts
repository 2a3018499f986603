/** The page as text. Everything that comes from a run is escaped: a sample may well contain a script. */
import { formatBytes, formatCount, formatLoss } from '../format.ts';
import type { Point, ReportData, ReportRun, ReportSample, ReportTable } from './data.ts';
import { align, percentAbove, smooth, thin } from './series.ts';

/** Legible on both themes' cards, and apart for colour-blind readers. */
const PALETTE = ['#3b82f6', '#f97316', '#10b981', '#a855f7', '#e11d48', '#0891b2'];

const CATEGORIES = [
  ['weights', 'weights', '--weights'],
  ['gradients', 'gradients', '--gradients'],
  ['optimizer', 'optimizer', '--optimizer'],
  ['activationsPeak', 'activations (peak)', '--activations'],
] as const;

/** A chart for the client script: series are drawn as `train` (line), `raw` (faint line) or `val` (dashed, dots). */
export interface Chart {
  id: string;
  x: number[];
  y: (number | null)[][];
  series: { label: string; color: string; kind: 'train' | 'raw' | 'val' }[];
  log?: boolean;
  /** Behind the numbers of y. */
  unit?: string;
  /** Range of y while the whole run is shown. */
  range?: [number, number];
}

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
export const escapeHtml = (text: string | number): string => String(text).replace(/[&<>"']/g, (char) => ENTITIES[char]);

/** JSON that can stand inside a script element whatever strings it holds. */
export const escapeJson = (value: unknown): string =>
  JSON.stringify(value).replace(
    /[<>&\u2028\u2029]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );

/** The run's colour as `#rrggbb`. */
export function colorOf(run: ReportRun, index: number): string {
  const given = run.color ?? '';
  if (/^#[0-9a-f]{6}$/i.test(given)) return given;
  if (/^#[0-9a-f]{3}$/i.test(given)) return given.replace(/[0-9a-f]/gi, '$&$&');
  return PALETTE[index % PALETTE.length];
}

/** Body of the page and the charts its script draws. */
export function renderPage(data: ReportData): { body: string; charts: Chart[] } {
  const charts: Chart[] = [];
  const parts = [
    `<header><h1>${escapeHtml(data.title)}</h1>${data.subtitle === undefined ? '' : `<p>${escapeHtml(data.subtitle)}</p>`}</header>`,
    `<div class="runs">${data.runs.map((run, i) => runCard(run, i, data.runs[0])).join('')}</div>`,
    lossSection(data.runs, charts),
    relativeSection(data.runs, charts),
    memorySection(data.runs),
    speedSection(data.runs),
    ...telemetrySections(data.runs, charts),
    sampleSection(data.samples ?? []),
    ...(data.tables ?? []).map(tableSection),
    environmentSection(data.environment ?? {}),
    `<footer>Made by fp8lm on ${escapeHtml((data.date ?? new Date()).toISOString().slice(0, 16).replace('T', ' '))} UTC. Charts: uPlot, © Leon Sorokin, MIT licence. Drag over a chart to zoom, double-click to reset.</footer>`,
  ];
  return { body: `<main>${parts.join('\n')}</main>`, charts };
}

function runCard(run: ReportRun, index: number, first: ReportRun): string {
  const state = stateBytes(run);
  const rows: [string, string, string?][] = [];
  const [trainLoss, valLoss] = [lastOf(smooth(run.train)), lastOf(run.val ?? [])];
  const isFirst = run === first;
  if (valLoss !== undefined)
    rows.push([
      'held-out loss',
      formatLoss(valLoss),
      isFirst ? undefined : difference(valLoss, lastOf(first.val ?? [])),
    ]);
  if (trainLoss !== undefined) rows.push(['training loss, end', formatLoss(trainLoss)]);
  rows.push([
    'speed',
    `${formatCount(run.tokensPerSecond)} tok/s`,
    isFirst ? undefined : ratio(run.tokensPerSecond, first.tokensPerSecond, 'more'),
  ]);
  rows.push([
    'weights + gradients + optimizer',
    formatBytes(state),
    isFirst ? undefined : ratio(state, stateBytes(first), 'less'),
  ]);
  rows.push([
    'memory, peak',
    formatBytes(run.memory.totalPeak),
    isFirst ? undefined : ratio(run.memory.totalPeak, first.memory.totalPeak, 'less'),
  ]);
  if (run.params !== undefined) rows.push(['parameters', formatCount(run.params)]);
  const note = run.note === undefined ? '' : `<div class="hint">${escapeHtml(run.note)}</div>`;
  const list = rows
    .map(([name, value, extra]) => `<dt>${name}</dt><dd>${escapeHtml(value)}${extra ?? ''}</dd>`)
    .join('');
  return `<div class="run" style="--run: ${colorOf(run, index)}"><h2>${escapeHtml(run.name)}</h2>${note}<dl>${list}</dl></div>`;
}

function lossSection(runs: readonly ReportRun[], charts: Chart[]): string {
  const curves: { points: readonly Point[]; label: string; color: string; kind: 'train' | 'raw' | 'val' }[] = [];
  // Faint curves first: the smooth ones are drawn over them.
  for (const kind of ['raw', 'train', 'val'] as const)
    runs.forEach((run, i) => {
      const points = kind === 'raw' ? thin(run.train) : kind === 'train' ? thin(smooth(run.train)) : (run.val ?? []);
      if (points.length > 0)
        curves.push({
          points,
          label: kind === 'val' ? `${run.name} held-out` : run.name,
          color: colorOf(run, i),
          kind,
        });
    });
  if (curves.length === 0) return '';
  charts.push({
    id: 'loss',
    ...align(curves.map(({ points }) => points)),
    series: curves.map(({ label, color, kind }) => ({ label, color, kind })),
    range: lossRange(runs),
  });
  return chartSection(
    'loss',
    'Loss',
    'Nats per token by step. Solid: training, smoothed (faint: each step). Dashed: held-out text.',
    curves.filter(({ kind }) => kind !== 'raw'),
  );
}

/** Curves that lie on each other in the first chart come apart here. */
function relativeSection(runs: readonly ReportRun[], charts: Chart[]): string {
  const [first, ...others] = runs;
  const curves: { points: readonly Point[]; label: string; color: string; kind: 'train' | 'val' }[] = [];
  others.forEach((run, i) => {
    const color = colorOf(run, i + 1);
    // Smooth before dividing: the mean of ratios of noisy values lies above the ratio of their means.
    const train = thin(smooth(percentAbove(smooth(smooth(run.train)), smooth(smooth(first.train)))));
    const val = percentAbove(run.val ?? [], first.val ?? []);
    if (train.length > 1) curves.push({ points: train, label: run.name, color, kind: 'train' });
    if (val.length > 0) curves.push({ points: val, label: `${run.name} held-out`, color, kind: 'val' });
  });
  if (curves.length === 0) return '';
  charts.push({
    id: 'relative',
    ...align(curves.map(({ points }) => points)),
    series: curves.map(({ label, color, kind }) => ({ label, color, kind })),
    unit: '%',
  });
  const title = `Loss relative to ${escapeHtml(first.name)}`;
  return chartSection('relative', title, 'Percent by step; above zero is worse.', curves);
}

function telemetrySections(runs: readonly ReportRun[], charts: Chart[]): string[] {
  const titles = [...new Set(runs.flatMap((run) => (run.telemetry ?? []).map(({ title }) => title)))];
  return titles.map((title, n) => {
    const curves = runs.flatMap((run, i) =>
      (run.telemetry ?? [])
        .filter((series) => series.title === title)
        .map((series) => ({
          ...series,
          points: thin(series.points),
          label: run.name,
          color: colorOf(run, i),
          kind: 'train' as const,
        })),
    );
    const log = curves.some((curve) => curve.log === true);
    // A logarithmic axis has no place for zero: such points are left out.
    const shown = curves.map(({ points }) =>
      log ? points.map(([step, value]): Point => [step, value > 0 ? value : NaN]) : points,
    );
    const id = `telemetry-${n}`;
    charts.push({ id, ...align(shown), series: curves.map(({ label, color, kind }) => ({ label, color, kind })), log });
    return chartSection(id, escapeHtml(title), '', curves);
  });
}

function chartSection(
  id: string,
  title: string,
  hint: string,
  curves: readonly { label: string; color: string; kind: string }[],
): string {
  const legend = curves
    .map(
      ({ label, color, kind }) =>
        `<span><span class="swatch bar${kind === 'val' ? ' dashed' : ''}" style="--c: ${color}${kind === 'val' ? '; background-color: transparent' : ''}"></span>${escapeHtml(label)}</span>`,
    )
    .join('');
  return `<section><h2>${title}</h2><p class="hint">${hint}</p><div class="legend">${legend}<b id="${id}-at"></b></div><div class="chart" id="${id}" role="img" aria-label="${title} by step"></div></section>`;
}

function memorySection(runs: readonly ReportRun[]): string {
  const sum = (run: ReportRun) => CATEGORIES.reduce((total, [key]) => total + run.memory[key], 0);
  const most = Math.max(1, ...runs.map(sum));
  const legend = CATEGORIES.map(
    ([, label, color]) => `<span><span class="swatch" style="--c: var(${color})"></span>${label}</span>`,
  ).join('');
  const bars = runs
    .map((run) => {
      const pieces = CATEGORIES.map(([key, label, color]) => {
        const bytes = run.memory[key];
        return bytes <= 0
          ? ''
          : `<i style="--c: var(${color}); width: ${((100 * bytes) / most).toFixed(3)}%" title="${label}: ${formatBytes(bytes)}"></i>`;
      });
      return `<div class="row"><div class="name">${escapeHtml(run.name)}</div><div class="track">${pieces.join('')}</div><div class="value">${formatBytes(sum(run))}</div></div>`;
    })
    .join('');
  const rows = CATEGORIES.map(
    ([key, label, color]) =>
      `<tr><td><span class="swatch" style="--c: var(${color})"></span>${label}</td>${runs.map((run) => `<td class="number">${formatBytes(run.memory[key])}</td>`).join('')}</tr>`,
  ).join('');
  const peaks = `<tr><td>peak of the whole run</td>${runs.map((run) => `<td class="number">${formatBytes(run.memory.totalPeak)}</td>`).join('')}</tr>`;
  const head = `<tr><th>category</th>${runs.map((run) => `<th class="number">${escapeHtml(run.name)}</th>`).join('')}</tr>`;
  return `<section><h2>Memory</h2><p class="hint">Bytes by category, from the allocator's own ledger; activations at their peak.</p><div class="legend">${legend}</div><div class="bars">${bars}</div><div class="scroll"><table class="memory">${head}${rows}${peaks}</table></div></section>`;
}

function speedSection(runs: readonly ReportRun[]): string {
  const most = Math.max(1e-9, ...runs.map((run) => run.tokensPerSecond));
  const bars = runs
    .map(
      (run, i) =>
        `<div class="row"><div class="name">${escapeHtml(run.name)}</div><div class="track"><i style="--c: ${colorOf(run, i)}; width: ${((100 * run.tokensPerSecond) / most).toFixed(2)}%"></i></div><div class="value">${formatCount(run.tokensPerSecond)} tok/s</div></div>`,
    )
    .join('');
  return `<section><h2>Speed</h2><p class="hint">Tokens per second, median over the steps after the first.</p><div class="bars">${bars}</div></section>`;
}

function sampleSection(samples: readonly ReportSample[]): string {
  if (samples.length === 0) return '';
  const texts = samples.map(
    ({ label, prompt, text }) =>
      `<div class="sample">${label === undefined ? '' : `<h3>${escapeHtml(label)}</h3>`}<pre><span class="prompt">${escapeHtml(prompt)}</span>${escapeHtml(text)}</pre></div>`,
  );
  return `<section><h2>Written by the trained model</h2><p class="hint">Grey: the prompt. The model continues it.</p>${texts.join('')}</section>`;
}

function tableSection({ title, columns, rows }: ReportTable): string {
  const isNumber = columns.map((_, c) => rows.length > 0 && rows.every((row) => typeof row[c] === 'number'));
  const cell = (tag: string, value: string | number, c: number) =>
    `<${tag}${isNumber[c] ? ' class="number"' : ''}>${escapeHtml(value)}</${tag}>`;
  const head = `<tr>${columns.map((column, c) => cell('th', column, c)).join('')}</tr>`;
  const body = rows.map((row) => `<tr>${row.map((value, c) => cell('td', value, c)).join('')}</tr>`).join('');
  return `<section><h2>${escapeHtml(title)}</h2><div class="scroll"><table>${head}${body}</table></div></section>`;
}

function environmentSection(environment: Record<string, string | number>): string {
  const rows = Object.entries(environment);
  if (rows.length === 0) return '';
  const cells = rows
    .map(([name, value]) => `<tr><td>${escapeHtml(name)}</td><td>${escapeHtml(value)}</td></tr>`)
    .join('');
  return `<section><h2>Environment</h2><div class="scroll"><table class="environment">${cells}</table></div></section>`;
}

/** The axis of the smooth curves: single steps may jump far above them and would flatten everything. */
function lossRange(runs: readonly ReportRun[]): [number, number] | undefined {
  const values = runs
    .flatMap((run) => [...smooth(run.train), ...(run.val ?? [])].map(([, value]) => value))
    .filter(Number.isFinite);
  if (values.length === 0) return undefined;
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const margin = Math.max(1e-3, 0.05 * (high - low));
  return [Math.max(0, low - margin), high + margin];
}

const stateBytes = ({ memory }: ReportRun) => memory.weights + memory.gradients + memory.optimizer;

const lastOf = (points: readonly Point[]): number | undefined => points.at(-1)?.[1];

function ratio(value: number, base: number, better: 'more' | 'less'): string {
  const times = value / base;
  if (!Number.isFinite(times)) return '';
  const isBetter = better === 'more' ? times > 1.005 : times < 0.995;
  const isWorse = better === 'more' ? times < 0.995 : times > 1.005;
  return ` <small${isBetter ? ' class="better"' : isWorse ? ' class="worse"' : ''}>${times.toFixed(2)}×</small>`;
}

function difference(value: number, base: number | undefined): string {
  if (base === undefined || !Number.isFinite(value / base)) return '';
  const percent = 100 * (value / base - 1);
  return ` <small>${percent >= 0 ? '+' : '−'}${Math.abs(percent).toFixed(2)} %</small>`;
}
