import { spawnSync } from 'node:child_process';

/** The first of these commands that runs, as {name, version}; null if none does. */
export function findCompiler(names) {
  for (const name of names) {
    const { status, stdout } = spawnSync(name, ['--version'], { encoding: 'utf8' });
    if (status !== 0) continue;
    const lines = stdout.trim().split('\n');
    return { name, version: lines.find((line) => /\d\.\d/.test(line)) ?? lines[0] };
  }
  return null;
}

/** What the C++ compiler of this machine may be called: CXX, else g++, clang++, c++. */
export const hostCompilers = () => (process.env.CXX ? [process.env.CXX] : ['g++', 'clang++', 'c++']);

export const findHostCompiler = () => findCompiler(hostCompilers());
