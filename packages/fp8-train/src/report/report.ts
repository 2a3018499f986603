/** A run's report: one HTML file that holds its data, style and charts, and opens without a network. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { atomicWrite } from '../files/atomic.ts';
import { CLIENT } from './client.ts';
import type { ReportData } from './data.ts';
import { escapeHtml, escapeJson, renderPage } from './page.ts';
import { STYLE } from './style.ts';

/** Writes the report. @throws UserError when the disk refuses; RangeError if there is no run */
export function writeReport(path: string, data: ReportData): void {
  atomicWrite(path, reportHtml(data));
}

/** The report as text. @throws RangeError if there is no run */
export function reportHtml(data: ReportData): string {
  if (data.runs.length === 0) throw new RangeError('report: there is no run to show');
  const { body, charts } = renderPage(data);
  const uplot = join(dirname(createRequire(import.meta.url).resolve('uplot')));
  const script = readFileSync(join(uplot, 'uPlot.iife.min.js'), 'utf8');
  const style = readFileSync(join(uplot, 'uPlot.min.css'), 'utf8');
  // The policy forbids any request: whatever the page contains, it cannot reach out.
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>${escapeHtml(data.title)}</title>
<style>${style}${STYLE}</style>
</head>
<body>
${body}
<noscript>The charts need JavaScript; the figures above do not.</noscript>
<script type="application/json" id="charts">${escapeJson(charts)}</script>
<script>${script}</script>
<script>${CLIENT}</script>
</body>
</html>
`;
}
