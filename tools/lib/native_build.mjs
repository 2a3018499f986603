// The build of a native backend: what the packages' build.mjs share. Each file is compiled once into build/KIND, under a name that
// ends in a hash of compiler, flags, source and every header of ours that it includes.
//
// Compilers run in the package's folder on relative paths, and no absolute path enters a hash, so build/KIND may be a link to
// a folder that several clones share.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { lock } from './lock.mjs';
import { root } from './root.mjs';

const jobs = 2;
const shown = (path) => relative(process.cwd(), path);
const withoutEnding = (name) => name.replace(/\.\w+$/, '').replaceAll('/', '_');

export class NativeBuild {
  /** @param script URL of the package's build script */
  constructor(script) {
    this.folder = dirname(fileURLToPath(script));
    this.native = join(this.folder, 'native');
    this.shared = join(root, 'packages/fp8-kernels/native');
    this.out = join(this.folder, 'build');
  }

  /** A line for --verbose. */
  say(line) {
    if (process.argv.includes('--verbose')) console.log(line);
  }

  /** Ends the process, with a line that says why. */
  fail(line) {
    console.error(`${basename(this.folder)}: ${line}`);
    process.exit(1);
  }

  /** Paths of the files in `native`, or in a folder of it, whose names match. */
  sources(pattern, under = '.') {
    const names = readdirSync(join(this.native, under)).filter((name) => pattern.test(name));
    return names.sort().map((name) => join(this.native, under, name));
  }

  /** Flags for the headers in `folders` and for Node's. */
  includes(folders = []) {
    const all = [...folders, this.#nodeHeaders()];
    return all.flatMap((folder) => ['-I', relative(this.folder, folder)]);
  }

  #nodeHeaders() {
    try {
      return createRequire(import.meta.url)('node-api-headers').include_dir;
    } catch {
      return this.fail('the package node-api-headers is missing; run `npm ci` in the repository root');
    }
  }

  /** Two builds of one kind at once would write the same files: the second waits. */
  async locked(kind, work) {
    mkdirSync(this.out, { recursive: true });
    const path = join(this.out, `lock-${kind}`);
    const unlock = await lock(path, { minutes: 15 });
    if (!unlock) this.fail(`another build holds ${path}; remove it if none runs`);
    await work();
    unlock();
  }

  /**
   * Compiles the files that have no object yet, the first first, and removes objects that no source maps to any more.
   * @param tool `compiler`; `flags(file)`; `kind`, the objects' folder in `build`
   * @returns {Promise<Map<string, string>>} the object of each file; what the compiler said lies beside it as .txt
   */
  async compile(tool, files) {
    mkdirSync(join(this.out, tool.kind), { recursive: true });
    const objects = new Map();
    const queue = [...files];
    const worker = async () => {
      for (let file = queue.shift(); file; file = queue.shift()) objects.set(file, await this.#compileOne(tool, file));
    };
    await Promise.all(Array.from({ length: jobs }, worker));
    this.#dropStale(join(this.out, tool.kind), [...objects.values()]);
    return objects;
  }

  async #compileOne({ compiler, flags, kind }, file) {
    const args = flags(file);
    const hash = createHash('sha256').update(JSON.stringify([compiler, args]));
    for (const path of [file, ...[...this.#headersOf(file)].sort()])
      hash.update(relative(this.folder, path)).update(readFileSync(path));
    const stem = withoutEnding(relative(this.native, file));
    const object = join(this.out, kind, `${stem}-${hash.digest('hex').slice(0, 16)}.o`);
    if (existsSync(object)) return object;
    const aside = `${object}.tmp-${process.pid}.o`;
    const start = Date.now();
    const text = await this.#run(
      compiler,
      [...args, '-c', relative(this.folder, file)],
      aside,
      `compile ${shown(file)}`,
    );
    const warnings = text.split('\n').filter((line) => /\bwarning\b/i.test(line));
    if (warnings.length) console.error(warnings.join('\n'));
    writeFileSync(object.replace(/\.o$/, '.txt'), text);
    renameSync(aside, object);
    this.say(`compiled ${basename(file)} in ${((Date.now() - start) / 1000).toFixed(1)} s`);
    return object;
  }

  /** Headers of ours that a file includes, directly or not. */
  #headersOf(file, seen = new Set()) {
    for (const [, name] of readFileSync(file, 'utf8').matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
      const path = [dirname(file), this.shared, this.native]
        .map((dir) => resolve(dir, name))
        .find((p) => existsSync(p));
      if (!path || seen.has(path)) continue;
      seen.add(path);
      this.#headersOf(path, seen);
    }
    return seen;
  }

  /** In a folder that is a link, other clones may need them. */
  #dropStale(folder, objects) {
    if (lstatSync(folder).isSymbolicLink()) return;
    const current = new Map(objects.map((object) => basename(object, '.o')).map((name) => [name.slice(0, -17), name]));
    const sources = new Set(readdirSync(this.native, { recursive: true }).map(withoutEnding));
    for (const name of readdirSync(folder)) {
      const [, id, stem] = /^((.+)-[0-9a-f]{16})\.(o|txt)$/.exec(name) ?? [];
      if (id && (!sources.has(stem) || (current.get(stem) ?? id) !== id)) rmSync(join(folder, name), { force: true });
    }
  }

  /** Links objects and flags into `build/name`. */
  async link(compiler, name, args) {
    const target = join(this.out, name);
    const aside = `${target}.tmp-${process.pid}`;
    await this.#run(compiler, args, aside, `link ${shown(target)}`);
    renameSync(aside, target);
    this.say(`linked ${shown(target)}`);
  }

  /** Runs a compiler that writes `aside`. @returns what it said */
  async #run(compiler, args, aside, what) {
    const { error, text } = await new Promise((done) => {
      const options = { cwd: this.folder, maxBuffer: 1 << 28 };
      execFile(compiler.name, [...args, '-o', aside], options, (error, stdout, stderr) =>
        done({ error, text: stdout + stderr }),
      );
    });
    if (!error) return text;
    rmSync(aside, { force: true });
    console.error(text);
    return this.fail(`${compiler.name} could not ${what}`);
  }
}
