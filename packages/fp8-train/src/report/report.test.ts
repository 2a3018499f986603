import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Point, ReportData } from './data.ts';
import { reportHtml, writeReport } from './report.ts';
import { align, percentAbove, smooth, thin } from './series.ts';

const dir = mkdtempSync(join(tmpdir(), 'report-'));
afterAll(() => rmSync(dir, { recursive: true }));

const falling = (n: number, above = 0): Point[] =>
  Array.from({ length: n }, (_, i) => [i + 1, 2 + above + 6 * Math.exp(-i / 50)]);

const memory = { weights: 6e6, gradients: 3e6, optimizer: 9e6, activationsPeak: 60e6, totalPeak: 78e6 };
const data: ReportData = {
  title: 'bf16 and o2',
  runs: [
    {
      name: 'bf16',
      train: falling(400),
      val: [
        [200, 2.11],
        [400, 2.01],
      ],
      tokensPerSecond: 10_000,
      memory: { ...memory, optimizer: 36e6, totalPeak: 105e6 },
      params: 3e6,
    },
    {
      name: 'o2',
      train: falling(400, 0.01),
      val: [
        [200, 2.12],
        [400, 2.02],
      ],
      tokensPerSecond: 12_500,
      memory,
      telemetry: [{ title: 'μ', log: true, points: falling(400) }],
    },
  ],
  samples: [{ label: 'o2', prompt: 'interface ', text: 'Promise<T> {}' }],
  environment: { node: 'v20', cores: 2 },
  tables: [
    {
      title: 'Phases',
      columns: ['recipe', 'ms'],
      rows: [
        ['bf16', 31.5],
        ['o2', 28.25],
      ],
    },
  ],
  date: new Date(Date.UTC(2026, 0, 2, 3, 4)),
};

describe('the report', () => {
  it('is one file with everything in it, and forbids requests', () => {
    const path = join(dir, 'sub', 'report.html');
    writeReport(path, data);
    expect(readdirSync(join(dir, 'sub'))).toEqual(['report.html']);
    const html = readFileSync(path, 'utf8');
    expect(html).toContain("default-src 'none'");
    expect(html).not.toMatch(/\b(src|href)\s*=|@import|url\(/i);
    expect(html).toContain('var uPlot=');
    expect(html.length).toBeLessThan(200_000);
  });

  it('shows every figure, compared with the first run', () => {
    const html = reportHtml(data);
    for (const text of [
      '10.0k tok/s',
      '12.5k tok/s',
      '1.25×',
      '45.0 MB',
      '18.0 MB',
      '0.40×',
      '2.020',
      '+0.50 %',
      '3.00M',
      'Promise&lt;T&gt;',
      '28.25',
      '2026-01-02 03:04 UTC',
    ])
      expect(html, text).toContain(text);
  });

  it('escapes whatever a run contains', () => {
    const evil = '</script><script>alert(1)</script><img onerror="x">\u2028\'&';
    const run = {
      ...data.runs[0],
      name: evil,
      note: evil,
      color: '"><script>',
      telemetry: [{ title: evil, points: falling(3) }],
    };
    const html = reportHtml({
      title: evil,
      subtitle: evil,
      runs: [run, { ...run, name: `${evil}2` }],
      samples: [{ label: evil, prompt: evil, text: evil }],
      environment: { [evil]: evil },
      tables: [{ title: evil, columns: [evil], rows: [[evil]] }],
    });
    expect(html).not.toContain('<script>alert');
    expect(html).not.toContain('<img');
    expect(html).not.toContain('"><script>');
    expect(html.match(/<script/g)).toHaveLength(3);
    expect(html.match(/<\/script>/g)).toHaveLength(3);
    const charts = /id="charts">(.*?)<\/script>/s.exec(html)![1];
    expect(JSON.parse(charts)[0].series[0].label).toBe(evil);
  });

  it('stands a run with NaN, one step, or nothing', () => {
    const bare = {
      name: 'x',
      tokensPerSecond: 0,
      memory: { weights: 0, gradients: 0, optimizer: 0, activationsPeak: 0, totalPeak: 0 },
    };
    for (const train of [
      [],
      [[1, NaN]],
      [[1, 2]],
      [
        [1, Infinity],
        [2, 3],
      ],
    ] as Point[][])
      expect(
        reportHtml({
          title: 't',
          runs: [
            { ...bare, train },
            { ...bare, train },
          ],
        }),
      ).not.toMatch(/>[^<]*(NaN|Infinity)[^<]*</);
    expect(() => reportHtml({ title: 't', runs: [] })).toThrow(RangeError);
  });

  it('stays small for a long run', () => {
    expect(
      reportHtml({ ...data, runs: data.runs.map((run) => ({ ...run, train: falling(200_000) })) }).length,
    ).toBeLessThan(400_000);
  });

  it('draws its charts in a browser', (test) => {
    const path = join(dir, 'draw.html');
    writeReport(path, data);
    const flags =
      '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync';
    const run = spawnSync(
      'chromium',
      [...flags.split(' '), `--user-data-dir=${join(dir, 'profile')}`, '--dump-dom', `file://${path}`],
      { encoding: 'utf8', timeout: 60_000 },
    );
    if (run.error !== undefined || run.status !== 0) return test.skip('chromium is not installed or does not start');
    expect(run.stdout.match(/<canvas/g)).toHaveLength(3);
  });
});

describe('curves', () => {
  it('are smoothed without lag: a straight line stays itself, to the last window', () => {
    const line: Point[] = Array.from({ length: 500 }, (_, i) => [i, i / 10]);
    const smoothed = smooth(line);
    for (let i = 0; i < 490; i++) expect(smoothed[i][1]).toBeCloseTo(line[i][1], 9);
    expect(
      smooth([
        [1, 5],
        [2, NaN],
        [3, 7],
      ]),
    ).toEqual([
      [1, 5],
      [3, 7],
    ]);
    expect(smooth([])).toEqual([]);
  });

  it('are smoothed to the mean of noise', () => {
    const noisy: Point[] = Array.from({ length: 1000 }, (_, i) => [i, i % 2]);
    for (const [, value] of smooth(noisy).slice(50, -50)) expect(Math.abs(value - 0.5)).toBeLessThan(0.02);
  });

  it('are thinned to means that keep the end', () => {
    const points: Point[] = Array.from({ length: 10_000 }, (_, i) => [i, i < 5000 ? 1 : 3]);
    const thinned = thin(points, 100);
    expect(thinned).toHaveLength(100);
    expect(thinned[0]).toEqual([99, 1]);
    expect(thinned.at(-1)).toEqual([9999, 3]);
    expect(thin(points.slice(0, 50), 100)).toEqual(points.slice(0, 50));
  });

  it('of different steps share one axis, with gaps', () => {
    expect(
      align([
        [
          [1, 10],
          [3, 30],
        ],
        [
          [2, 20],
          [3, NaN],
        ],
      ]),
    ).toEqual({
      x: [1, 2, 3],
      y: [
        [10, null, 30],
        [null, 20, null],
      ],
    });
  });

  it('are compared in percent where both have a step', () => {
    expect(
      percentAbove(
        [
          [1, 2],
          [2, 3.03],
        ],
        [
          [2, 3],
          [3, 1],
        ],
      ),
    ).toEqual([[2, expect.closeTo(1, 9)]]);
  });
});
