// One process at a time: a file with the owner's process id. What a dead owner left is taken over.
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** Takes the lock if nobody alive has it. @returns a function that gives it back, or undefined */
export function tryLock(path) {
  const own = `${path}.${process.pid}`;
  writeFileSync(own, `${process.pid}\n`);
  try {
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        linkSync(own, path); // atomic, and the content is there at once
        return unlocker(path);
      } catch (error) {
        if (error.code !== 'EEXIST') throw error;
        const owner = ownerOf(path);
        if (owner !== undefined && isAlive(owner)) return undefined;
        takeAway(path, owner);
      }
    }
    return undefined;
  } finally {
    rmSync(own, { force: true });
  }
}

/**
 * Waits for the lock.
 * @param onWait called once if another process has it
 * @returns as `tryLock`; undefined if another process has kept it for so many minutes
 */
export async function lock(path, { minutes, onWait }) {
  const deadline = performance.now() + minutes * 60_000;
  for (let waited = 0; ; waited++) {
    const unlock = tryLock(path);
    if (unlock || performance.now() > deadline) return unlock;
    if (waited === 0) onWait?.();
    await sleep(200);
  }
}

function unlocker(path) {
  const unlock = () => {
    process.removeListener('exit', unlock);
    if (ownerOf(path) === process.pid) rmSync(path, { force: true });
  };
  process.on('exit', unlock);
  return unlock;
}

/** Removes a dead owner's file; two that try at once cannot remove a live one's, as only one rename succeeds. */
function takeAway(path, owner) {
  const aside = `${path}.stale-${process.pid}`;
  try {
    renameSync(path, aside);
  } catch {
    return;
  }
  if (ownerOf(aside) !== owner) {
    try {
      linkSync(aside, path); // it changed hands in between: put it back
    } catch {}
  }
  rmSync(aside, { force: true });
}

function ownerOf(path) {
  try {
    return Number(readFileSync(path, 'utf8')) || undefined;
  } catch {
    return undefined;
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}
