/** The page's style: two themes by custom properties, one column on a phone. */
export const STYLE = `
:root { color-scheme: light dark; --bg: #f6f7f9; --card: #fff; --ink: #1c2330; --soft: #5c6675; --line: #e1e5eb; --grid: #e9ecf1;
  --weights: #4e79a7; --gradients: #e68a2e; --optimizer: #5aa469; --activations: #a274b8; --better: #1a7f4b; --worse: #b4451f; }
@media (prefers-color-scheme: dark) { :root { --bg: #10141b; --card: #181e27; --ink: #e4e9f0; --soft: #95a1b2; --line: #2a323f; --grid: #232b37;
  --weights: #6f9bcb; --gradients: #f0a35a; --optimizer: #78c088; --activations: #bd93d1; --better: #5fcf95; --worse: #f0906b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 48px; }
header h1 { font-size: 26px; line-height: 1.25; margin: 0; letter-spacing: -.01em; }
header p { margin: 6px 0 0; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px 16px; margin-top: 18px; }
h2 { font-size: 16px; margin: 0 0 2px; }
h2 + .hint { margin: 0 0 12px; }
.hint { color: var(--soft); font-size: 13px; }
.runs { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 18px; margin-top: 24px; }
.run { background: var(--card); border: 1px solid var(--line); border-top: 4px solid var(--run); border-radius: 12px; padding: 14px 18px 16px; }
.run h2 { font-size: 18px; }
.run dl { display: grid; grid-template-columns: 1fr auto; gap: 5px 12px; margin: 10px 0 0; }
.run dt { color: var(--soft); }
.run dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; }
.run dd small { font-weight: 500; margin-left: 6px; color: var(--soft); }
.run dd small.better { color: var(--better); } .run dd small.worse { color: var(--worse); }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; background: var(--c); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft); margin: 0 0 8px; }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.legend .bar { width: 20px; height: 3px; vertical-align: middle; border-radius: 2px; }
.legend .dashed { background: repeating-linear-gradient(90deg, var(--c) 0 6px, transparent 6px 9px); }
.chart { width: 100%; min-height: 120px; }
.uplot, .uplot *, .uplot *::before, .uplot *::after { font-family: inherit; }
.u-select { background: color-mix(in srgb, var(--ink) 10%, transparent); }
.u-cursor-x, .u-cursor-y { border-color: var(--soft) !important; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 10px 14px; align-items: center; }
.bars .row { display: contents; }
.bars .name { font-weight: 600; max-width: 30vw; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars .track { display: flex; height: 26px; border-radius: 5px; overflow: hidden; }
.bars .track i { display: block; height: 100%; background: var(--c); min-width: 1px; box-shadow: inset -1px 0 0 var(--card); }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line); padding: 6px 14px 6px 0; white-space: nowrap; }
td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--grid); vertical-align: top; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
.number { text-align: right; white-space: nowrap; }
table.memory { margin-top: 14px; }
.environment td:first-child { color: var(--soft); white-space: nowrap; width: 1%; padding-right: 24px; }
pre { margin: 10px 0 0; padding: 14px 16px; background: var(--bg); border: 1px solid var(--line); border-radius: 8px; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; max-height: 480px; overflow-y: auto; tab-size: 2; }
pre .prompt { color: var(--soft); }
.sample + .sample { margin-top: 16px; }
.sample h3 { font-size: 14px; margin: 10px 0 0; }
footer { color: var(--soft); font-size: 13px; margin-top: 22px; }
@media (max-width: 560px) { main { padding: 18px 12px 32px; } section { padding: 14px 12px; } header h1 { font-size: 21px; }
  .bars { display: block; } .bars .row { display: grid; grid-template-columns: 1fr max-content; gap: 2px 10px; margin-bottom: 10px; }
  .bars .name { max-width: none; } .bars .track { order: 3; grid-column: 1 / -1; } }
@media print { body { background: #fff; } section, .run { break-inside: avoid; } }
`;
