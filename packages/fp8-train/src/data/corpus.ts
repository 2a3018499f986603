/**
 * Real text that is on every installation, so that a first run needs no download: the declaration files of the
 * TypeScript library (types, names and English comments), else those of @types/node, else the README files of the
 * installed packages. The lock file pins the packages, so everyone trains on the same text.
 */
import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, sep } from 'node:path';
import { UserError } from 'fp8-core';
import { memorySource, type TextSource } from './text_source.ts';

export interface Corpus extends TextSource {
  text: string;
  /** One line for each package it comes from. */
  sources: string[];
}

export interface CorpusOptions {
  /** Packages are added in order until there is this much text, in characters. Default 1 million. */
  minChars?: number;
  /** Cut after the declaration that crosses this. Default 4 million. */
  maxChars?: number;
  /** File or folder to resolve packages from, beside this package. */
  from?: string;
}

/** Text shorter than this may repeat: closing brackets, short aliases. */
const SHORTEST_DUPLICATE = 40;

/**
 * The built-in corpus.
 * @throws UserError if none of the packages is installed; the message says how to give other text
 */
export function builtinCorpus(options: CorpusOptions = {}): Corpus {
  const { minChars = 1e6, maxChars = 4e6 } = options;
  const roots = [import.meta.url, ...(options.from === undefined ? [] : [join(options.from, 'x')])].map((from) =>
    createRequire(from),
  );
  const seen = new Set<string>();
  const sources: string[] = [];
  let text = '';
  for (const find of [typescriptLibrary, nodeTypes, readmeFiles]) {
    if (text.length >= minChars) break;
    for (const require of roots) {
      const { label, files } = find(require);
      const added = distinctText(files, seen, maxChars - text.length);
      if (added === '') continue;
      sources.push(`${label}: ${files.length} files, ${(added.length / 1e6).toFixed(2)} MB`);
      text += added;
      break;
    }
  }
  if (text === '')
    throw new UserError(
      'data: no built-in text was found (packages typescript, @types/node or any README); give your own with --data PATH',
    );
  return { ...memorySource(text, `built-in text (${sources.join('; ')})`), text, sources };
}

/** Where the files lie depends on the version: in `typescript` up to 6, in its platform package from 7 on. */
function typescriptLibrary(require: NodeJS.Require): { label: string; files: string[] } {
  const home = packageFolder(require, 'typescript');
  if (home === undefined) return { label: '', files: [] };
  const own = createRequire(join(home, 'package.json'));
  const platform = packageFolder(own, `@typescript/typescript-${process.platform}-${process.arch}`);
  for (const folder of [home, platform]) {
    const files = folder === undefined ? [] : filesIn(join(folder, 'lib'), /^lib\..*d\.ts$/);
    if (files.length > 0) return { label: `TypeScript ${versionOf(home)} library declarations`, files };
  }
  return { label: '', files: [] };
}

function nodeTypes(require: NodeJS.Require): { label: string; files: string[] } {
  const home = packageFolder(require, '@types/node');
  return home === undefined
    ? { label: '', files: [] }
    : { label: `@types/node ${versionOf(home)}`, files: filesIn(home, /\.d\.ts$/) };
}

/** README files of the packages beside any package that resolves. */
function readmeFiles(require: NodeJS.Require): { label: string; files: string[] } {
  const home = ['uplot', '@huggingface/tokenizers', 'typescript']
    .map((name) => packageFolder(require, name))
    .find((found) => found !== undefined);
  const at = home?.lastIndexOf(`${sep}node_modules${sep}`) ?? -1;
  if (home === undefined || at < 0) return { label: '', files: [] };
  const modules = home.slice(0, at + `${sep}node_modules`.length);
  const files: string[] = [];
  for (const name of namesIn(modules)) {
    const packages = name.startsWith('@') ? namesIn(join(modules, name)).map((inner) => join(name, inner)) : [name];
    for (const inner of packages) files.push(...filesIn(join(modules, inner), /^(readme|changelog)\.md$/i));
  }
  return { label: 'README files of installed packages', files };
}

/**
 * The files' text without repetitions: each top-level declaration or paragraph counts once (the library declares many
 * things for the page and again for workers; held-out text must not be a copy of training text). Small files come
 * first, so the tail held out for validation is of the largest file, and of one kind with most of the text.
 */
function distinctText(files: readonly string[], seen: Set<string>, maxChars: number): string {
  const texts = files.map((file) => ({
    name: basename(file),
    file,
    text: readFileSync(file, 'utf8').replaceAll('\r\n', '\n'),
  }));
  texts.sort((a, b) => a.text.length - b.text.length || (a.file < b.file ? -1 : 1));
  let result = '';
  for (const { text } of texts)
    for (const block of text.split(/\n(?=\S)/)) {
      if (block.length >= SHORTEST_DUPLICATE) {
        if (seen.has(block)) continue;
        seen.add(block);
      }
      if (result.length + block.length + 1 > maxChars) return result;
      result += `${block}\n`;
    }
  return result;
}

function packageFolder(require: NodeJS.Require, name: string): string | undefined {
  try {
    return dirname(realpathSync(require.resolve(`${name}/package.json`)));
  } catch {
    // Not installed, or its package.json is not exported: look for the folder itself.
    for (const folder of require.resolve.paths(name) ?? [])
      if (namesIn(join(folder, name)).includes('package.json')) return realpathSync(join(folder, name));
    return undefined;
  }
}

const versionOf = (home: string): string => JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')).version;

const filesIn = (folder: string, pattern: RegExp): string[] =>
  namesIn(folder)
    .filter((name) => pattern.test(name))
    .map((name) => join(folder, name));

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}
