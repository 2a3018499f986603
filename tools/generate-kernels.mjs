// Generates, from packages/fp8-kernels/kernels.def, the TypeScript signatures and the C++ prototypes with their N-API binding.
// `node tools/generate-kernels.mjs` writes; `--check` compares with what is committed and exits 1 on a difference.
import { readFileSync, writeFileSync } from 'node:fs';

const root = new URL('..', import.meta.url);
const classes = { act: 'f32|bf16', fp8: 'e4m3|e5m2', any: 'f32|bf16|f16|e4m3|e5m2' };
const source = readFileSync(new URL('packages/fp8-kernels/kernels.def', root), 'utf8');

/** Splits at commas outside brackets. */
const splitArguments = (text) => text.split(/,(?![^[(]*[\])])/).map((s) => s.trim());

function parseParam(text, line) {
  const tensor = /^(\w+): (in|out|inout) ([\w|]+)(\??) \[([^\]]+)\]$/.exec(text);
  if (tensor) {
    const dtypes = tensor[3]
      .split('|')
      .flatMap((t) => (classes[t] ?? t).split('|'))
      .filter((t, i, all) => all.indexOf(t) === i);
    return { name: tensor[1], kind: 'tensor', access: tensor[2], dtypes, optional: tensor[4] === '?', size: tensor[5] };
  }
  const scalar = /^(\w+): (int|num)$/.exec(text);
  if (scalar) return { name: scalar[1], kind: scalar[2] };
  throw new Error(`kernels.def: cannot read "${text}" in: ${line}`);
}

const kernels = source
  .split('\n')
  .filter((line) => /^\w/.test(line))
  .map((line) => {
    const end = line.indexOf(' #') < 0 ? line.length : line.indexOf(' #');
    const head = line.slice(0, end).trim();
    const note = line
      .slice(end)
      .replace(/^\s*#\s*/, '')
      .trim();
    if (!head.endsWith(')')) throw new Error(`kernels.def: cannot read: ${line}`);
    const open = head.indexOf('(');
    const params = splitArguments(head.slice(open + 1, -1)).map((p) => parseParam(p, line));
    return { name: head.slice(0, open), params, note };
  });

const header = (mark) =>
  `${mark} Generated from packages/fp8-kernels/kernels.def by tools/generate-kernels.mjs. Do not edit.\n`;
const camel = (s) => s.replace(/(^|_)(\w)/g, (_, _u, c) => c.toUpperCase());

function typescript() {
  let out = header('//');
  out += `import type { DType } from './dtype.ts';\nimport type { Tensor } from './tensor.ts';\n\n`;
  for (const k of kernels) {
    out += `export interface ${camel(k.name)}Args {\n`;
    for (const p of k.params) {
      if (p.kind === 'tensor') {
        out += `  /** ${p.access} ${p.dtypes.join('|')} [${p.size}] */\n  ${p.name}${p.optional ? '?' : ''}: Tensor${p.optional ? ' | null' : ''};\n`;
      } else out += `  ${p.name}: number;\n`;
    }
    out += '}\n\n';
  }
  out +=
    '/** The kernel table; every backend implements each entry. Wrong sizes or dtypes throw before the kernel runs. */\n';
  out += 'export interface Kernels {\n';
  for (const k of kernels)
    out += `${k.note ? `  /** ${k.note} */\n` : ''}  ${k.name}(args: ${camel(k.name)}Args): void;\n`;
  out += '}\n\n';
  out += `export interface KernelParam {
  name: string;
  kind: 'tensor' | 'int' | 'num';
  access?: 'in' | 'out' | 'inout';
  dtypes?: readonly DType[];
  optional?: boolean;
  /** Number of elements that the kernel touches, from the integer arguments. */
  size?: (a: Record<string, number>) => number;
}

export const kernelTable: Record<keyof Kernels, readonly KernelParam[]> = {\n`;
  for (const k of kernels) {
    out += `  ${k.name}: [\n`;
    for (const p of k.params) {
      if (p.kind !== 'tensor') out += `    { name: '${p.name}', kind: '${p.kind}' },\n`;
      else {
        const size = p.size.replace(/[a-z_]\w*/g, (v) => `a.${v}`);
        out += `    { name: '${p.name}', kind: 'tensor', access: '${p.access}', dtypes: [${p.dtypes.map((t) => `'${t}'`).join(', ')}], optional: ${p.optional}, size: (${/a\./.test(size) ? 'a' : ''}) => ${size} },\n`;
      }
    }
    out += '  ],\n';
  }
  out += '};\n\n';
  out += `/** Calls of the native addon: per kernel, tensors as handles (-1 for none) and scalars, in the table's order. */\nexport type NativeKernels = Record<keyof Kernels, (...args: number[]) => void>;\n\n`;
  out += `/** The handle of a tensor that a kernel cannot do without. */
function handle(tensor: Tensor | undefined, what: string): number {
  if (typeof tensor?.handle !== 'number') throw new TypeError(\`\${what} is missing; expected a tensor\`);
  return tensor.handle;
}

/** The handle of an optional tensor, or -1. */
const maybe = (tensor: Tensor | null | undefined): number => (tensor ? tensor.handle : -1);\n\n`;
  out += 'export function bindKernels(native: NativeKernels): Kernels {\n  return {\n';
  for (const k of kernels) {
    const args = k.params.map((p) =>
      p.kind !== 'tensor'
        ? `a.${p.name}`
        : p.optional
          ? `maybe(a.${p.name})`
          : `handle(a.${p.name}, '${k.name}: ${p.name}')`,
    );
    out += `    ${k.name}: (a) => native.${k.name}(${args.join(', ')}),\n`;
  }
  out += '  };\n}\n';
  return out;
}

function prototypes() {
  let out = header('//');
  out += '#pragma once\n#include "tensor.h"\n\nnamespace fp8lm {\n\n';
  for (const k of kernels) {
    const args = k.params.map(
      (p) => `${p.kind === 'tensor' ? 'const Tensor& ' : p.kind === 'int' ? 'int64_t ' : 'double '}${p.name}`,
    );
    out += `${k.note ? `/// ${k.note}\n` : ''}void ${k.name}(${args.join(', ')});\n`;
  }
  return `${out}\n}  // namespace fp8lm\n`;
}

/** In float64 a product of huge numbers stays huge, where int64 would wrap round to something that fits. */
const sizeInDoubles = (size) => size.replace(/[a-z_]\w*/g, 'double($&)');

function binding() {
  let out = header('//');
  out +=
    '// Included by addon.h, which provides Call (argument reading, size and dtype checks) and the handle table.\n\n';
  for (const [slot, k] of kernels.entries()) {
    out += `static napi_value call_${k.name}(napi_env env, napi_callback_info info) {\n`;
    out += `  Call call(env, info, "${k.name}", ${k.params.length}, ${slot});\n`;
    k.params.forEach((p, i) => {
      if (p.kind === 'int') out += `  const int64_t ${p.name} = call.integer(${i}, "${p.name}");\n`;
      if (p.kind === 'num') out += `  const double ${p.name} = call.number(${i}, "${p.name}");\n`;
    });
    k.params.forEach((p, i) => {
      if (p.kind !== 'tensor') return;
      const mask = p.dtypes.map((t) => `bit(DType::${t})`).join(' | ');
      out += `  const Tensor ${p.name} = call.tensor(${i}, "${p.name}", ${mask}, ${sizeInDoubles(p.size)}, ${p.optional});\n`;
    });
    out += `  if (call.failed()) return nullptr;\n  call.run([&] { fp8lm::${k.name}(${k.params.map((p) => p.name).join(', ')}); });\n  return nullptr;\n}\n\n`;
  }
  out += `static const struct { const char* name; napi_callback call; } kKernels[] = {\n${kernels.map((k) => `    {"${k.name}", call_${k.name}},`).join('\n')}\n};\n`;
  return out;
}

const files = {
  'packages/fp8-core/src/kernels.gen.ts': typescript(),
  'packages/fp8-kernels/native/kernels.gen.h': prototypes(),
  'packages/fp8-kernels/native/binding.gen.h': binding(),
};
let stale = 0;
for (const [path, text] of Object.entries(files)) {
  const url = new URL(path, root);
  if (process.argv.includes('--check')) {
    let committed = '';
    try {
      committed = readFileSync(url, 'utf8');
    } catch {}
    if (committed !== text) {
      console.error(`${path} is not what kernels.def gives; run \`npm run generate\``);
      stale++;
    }
  } else writeFileSync(url, text);
}
if (stale) process.exitCode = 1;
else
  console.log(
    `${kernels.length} kernels, ${Object.keys(files).length} generated files ${process.argv.includes('--check') ? 'up to date' : 'written'}`,
  );
