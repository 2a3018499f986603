/**
 * The page's own script, run by the browser: draws the charts that the page's JSON describes. It is text, not a
 * function of ours turned to text, because build tools would rewrite that.
 */
export const CLIENT = `
(() => {
  'use strict';
  const charts = JSON.parse(document.getElementById('charts').textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const fade = (color, alpha) => { const n = parseInt(color.slice(1), 16); return 'rgba(' + (n >> 16) + ',' + ((n >> 8) & 255) + ',' + (n & 255) + ',' + alpha + ')'; };
  const short = (v) => v == null ? '' : v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e5) ? v.toExponential(0) : String(+v.toPrecision(4));
  const plots = [];
  for (const chart of charts) {
    const host = document.getElementById(chart.id);
    const label = document.getElementById(chart.id + '-at');
    const height = () => Math.max(220, Math.min(360, Math.round(host.clientWidth * 0.42)));
    const axis = (size) => ({ stroke: () => css('--soft'), grid: { stroke: () => css('--grid'), width: 1 }, ticks: { stroke: () => css('--line'), width: 1, size: 5 }, font: '12px system-ui, sans-serif', size });
    const series = chart.series.map((s) => ({
      label: s.label, stroke: s.kind === 'raw' ? fade(s.color, 0.28) : s.color, width: s.kind === 'raw' ? 1 : 2, spanGaps: true,
      dash: s.kind === 'val' ? [6, 4] : undefined, points: { show: s.kind === 'val', size: 7, fill: s.color, stroke: s.color, width: 0 },
    }));
    const show = (u) => {
      const i = u.cursor.idx;
      if (i == null) { label.textContent = ''; return; }
      const at = [];
      chart.series.forEach((s, k) => { const v = u.data[k + 1][i]; if (v != null && s.kind !== 'raw') at.push(s.label + ' ' + (+v.toPrecision(4)) + (chart.unit ? ' ' + chart.unit : '')); });
      label.textContent = 'step ' + u.data[0][i] + (at.length ? ': ' + at.join(', ') : '');
    };
    const plot = new uPlot({
      width: host.clientWidth, height: height(), legend: { show: false }, cursor: { points: { show: false } },
      scales: { x: { time: false }, y: chart.log ? { distr: 3 } : chart.range ? { range: (u, min, max) => { const on = u.scales.x; const whole = on.min <= u.data[0][0] && on.max >= u.data[0][u.data[0].length - 1]; return whole ? chart.range : uPlot.rangeNum(min, max, 0.1, true); } } : {} },
      axes: [Object.assign(axis(34), { values: (u, v) => v.map((x) => Number.isInteger(x) ? String(x) : '') }), Object.assign(axis((u, texts) => 18 + 7 * Math.max(4, ...(texts || []).map((t) => t.length))), { values: (u, v) => v.map((x) => short(x) + (x == null || !chart.unit ? '' : ' ' + chart.unit)) })],
      series: [{ label: 'step' }, ...series], hooks: { setCursor: [show] },
    }, [chart.x, ...chart.y], host);
    plots.push([plot, host, height]);
  }
  const resize = () => plots.forEach(([plot, host, height]) => plot.setSize({ width: host.clientWidth, height: height() }));
  let pending = 0;
  addEventListener('resize', () => { cancelAnimationFrame(pending); pending = requestAnimationFrame(resize); });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => plots.forEach(([plot]) => plot.redraw(false, true)));
})();
`;
