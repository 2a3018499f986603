// This machine, and the folders in its temporary folder that jobs keep their sockets in.
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';

/** The same for processes that share a kernel, a network and process ids. */
export function hostId(): string {
  const parts = [hostname()];
  try {
    parts.push(readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim());
    for (const ns of ['net', 'pid', 'mnt']) parts.push(readlinkSync(`/proc/self/ns/${ns}`));
  } catch {
    // not Linux: the host name has to do
  }
  return parts.join(' ');
}

const prefix = 'fp8lm-';
const ownerFile = 'owner';

/**
 * A folder for sockets, which the caller removes at its end. One that is killed cannot: what such left here is removed first.
 * @param root for tests
 */
export function makeSocketFolder(root: string = tmpdir()): string {
  for (const name of namesIn(root)) if (name.startsWith(prefix)) removeIfLeft(join(root, name));
  const folder = mkdtempSync(join(root, prefix));
  writeFileSync(join(folder, ownerFile), `${process.pid}\n${hostId()}\n`);
  return folder;
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // one may make a folder where one may not list them
  }
}

/** Removes a folder of this user's whose owner was a process of this very host and is no more. */
function removeIfLeft(folder: string): void {
  try {
    if (statSync(folder).uid !== process.getuid?.()) return;
    const [pid, host] = readFileSync(join(folder, ownerFile), 'utf8').split('\n');
    if (host !== hostId() || !/^\d+$/.test(pid) || isAlive(Number(pid))) return;
    rmSync(folder, { recursive: true, force: true });
  } catch {
    // just made, just removed, or not ours
  }
}

/** Whether a process of this host is there, anybody's. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}
