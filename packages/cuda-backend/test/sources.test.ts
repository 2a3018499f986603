// What no compiler asks of the kernels, and no simulated device would notice.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

const native = join(import.meta.dirname, '../native');

/** Each kernel's name and the first statement of its body. */
function kernelsOf(source: string): { name: string; first: string }[] {
  const code = source.replaceAll(/\/\/.*/g, '');
  return [...code.matchAll(/__global__[^{;]*?(\w+)\([^{;]*\{\s*([^;]*;)/g)].map(([, name, first]) => ({ name, first }));
}

it('every kernel begins with beginKernel', () => {
  const files = readdirSync(native, { recursive: true, encoding: 'utf8' }).filter((file) =>
    /^(?!sim\/).*\.(cu|h)$/.test(file),
  );
  const kernels = files.flatMap((file) => kernelsOf(readFileSync(join(native, file), 'utf8')));
  expect(kernels.length).toBeGreaterThan(50);
  expect(kernels.filter(({ first }) => first !== 'beginKernel();')).toEqual([]);
});
