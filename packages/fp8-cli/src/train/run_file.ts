// Run files: a run configuration as a value, in TypeScript, JavaScript or JSON.
import { existsSync, readFileSync } from 'node:fs';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type RunConfig, UserError } from './fp8.ts';

const CODE = ['.ts', '.mts', '.js', '.mjs'];

/** True if the argument names a file rather than a preset. */
export const isRunFile = (name: string): boolean =>
  [...CODE, '.cts', '.cjs', '.json'].includes(extname(name)) || /[/\\]/.test(name);

/**
 * Loads a run file.
 * @throws UserError naming the file: not there, does not load, exports no configuration
 */
export async function loadRunFile(path: string): Promise<Partial<RunConfig>> {
  if (!existsSync(path)) throw new UserError(`run file ${path}: no such file`);
  const extension = extname(path);
  if (extension === '.json') return checked(path, parseJson(path));
  if (!CODE.includes(extension)) {
    throw new UserError(`run file ${path}: its name must end in .json, ${CODE.join(', ')}`);
  }
  let module: { default?: unknown };
  try {
    if (extension.endsWith('ts')) await useTsx();
    module = (await import(pathToFileURL(resolve(path)).href)) as { default?: unknown };
  } catch (error) {
    throw new UserError(`run file ${path}: ${explainImport(error)}`);
  }
  if (!('default' in module)) {
    throw new UserError(`run file ${path}: it has no default export; end it with \`export default defineRun({ … })\``);
  }
  return checked(path, module.default);
}

/** By URL, as the module lies outside of what is compiled: packages/fp8-cli/bin, two folders up from here and from dist. */
async function useTsx(): Promise<void> {
  const { useTypeScript } = (await import(new URL('../../bin/typescript.mjs', import.meta.url).href)) as {
    useTypeScript(): Promise<void>;
  };
  await useTypeScript();
}

function explainImport(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  const line = String(message ?? error)
    .split('\n')
    .filter((text) => text.trim() !== '')
    .slice(0, 2)
    .join(' ');
  if (code === 'ERR_MODULE_NOT_FOUND') {
    return `${line}; imports are looked up from the file's folder (a plain \`export default { … }\` needs none)`;
  }
  return line;
}

function parseJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    if (error instanceof SyntaxError) throw new UserError(`run file ${path} is not valid JSON: ${error.message}`);
    throw error;
  }
}

function checked(path: string, value: unknown): Partial<RunConfig> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const kind = value === null ? 'null' : Array.isArray(value) ? 'an array' : `a ${typeof value}`;
    throw new UserError(
      `run file ${path}: it holds ${kind}; a run is an object such as { model: 'gpt-nano', steps: 300 }`,
    );
  }
  return value as Partial<RunConfig>;
}
