/**
 * Files that are either whole or absent: written aside, forced to the disk, renamed, and the folder forced too.
 * Without the two fsyncs a power cut can leave a renamed file of 0 bytes.
 */
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { UserError } from 'fp8-core';

/** Writes a file aside and renames it. @throws UserError when the disk refuses (full, read-only, no permission …) */
export function atomicWrite(path: string, chunks: string | Uint8Array | Iterable<string | Uint8Array>): void {
  const aside = `${path}.tmp-${process.pid}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    writeDurably(aside, typeof chunks === 'string' || chunks instanceof Uint8Array ? [chunks] : chunks);
    renameSync(aside, path);
    syncFolder(dirname(path));
  } catch (error) {
    removeQuietly(aside);
    throw explainDisk(error, 'write', path);
  }
}

/** Writes a new file and forces it to the disk; returns its size. Errors are the system's own. */
export function writeDurably(path: string, chunks: Iterable<string | Uint8Array>): number {
  const fd = openSync(path, 'w');
  try {
    let size = 0;
    for (const chunk of chunks) {
      const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
      writeFully(fd, bytes);
      size += bytes.length;
    }
    fsyncSync(fd);
    return size;
  } finally {
    closeSync(fd);
  }
}

/** Writes all bytes: one call may write less (at 2 GiB, at a limit), and the next tells why. */
export function writeFully(fd: number, bytes: Uint8Array): void {
  const MAX_WRITE = 1 << 30;
  for (let done = 0; done < bytes.length; )
    done += writeSync(fd, bytes, done, Math.min(MAX_WRITE, bytes.length - done));
}

/** Forces a folder's entries to the disk. */
export function syncFolder(path: string): void {
  if (process.platform === 'win32') return; // folders cannot be opened there; NTFS journals renames
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Opens a regular file for reading and gives its size. Never waits on a fifo; refuses links unless told otherwise. */
export function openRegular(path: string, options: { followLinks: boolean }): { fd: number; size: number } {
  const { O_RDONLY, O_NONBLOCK = 0, O_NOFOLLOW = 0 } = constants;
  let fd: number;
  try {
    fd = openSync(path, O_RDONLY | O_NONBLOCK | (options.followLinks ? 0 : O_NOFOLLOW));
  } catch (error) {
    if (codeOf(error) === 'ELOOP') throw new UserError(`${path} is a symbolic link; a regular file is expected`);
    throw explainDisk(error, 'read', path);
  }
  const stat = fstatSync(fd);
  if (!stat.isFile()) {
    closeSync(fd);
    throw new UserError(`${path} is not a regular file`);
  }
  return { fd, size: stat.size };
}

export function removeQuietly(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch {
    // The error that brought us here matters more.
  }
}

const REASONS: Record<string, string> = {
  ENOSPC: 'the disk is full; free some space or choose another folder',
  EDQUOT: 'the disk quota is used up; free some space or choose another folder',
  EFBIG: 'the file would exceed the allowed file size (see `ulimit -f`)',
  EIO: 'the disk reported an input/output error',
  EROFS: 'the file system is read-only; choose another folder',
  EACCES: 'permission denied; choose another folder or change its permissions',
  EPERM: 'operation not permitted; choose another folder or change its permissions',
  ENOENT: 'it does not exist',
  ENOTDIR: 'a part of the path is a file, not a folder',
  EEXIST: 'a file of that name is in the way',
  EISDIR: 'it is a folder, not a file',
  ENAMETOOLONG: 'the name is too long',
  EMFILE: 'too many open files (see `ulimit -n`)',
};

/** Turns a system error about a path into one clear line; returns other errors unchanged. */
export function explainDisk(error: unknown, verb: 'read' | 'write', path: string, consequence = ''): unknown {
  const code = codeOf(error);
  if (code === undefined || error instanceof UserError || !(code in REASONS)) return error;
  return new UserError(`cannot ${verb} ${path}: ${REASONS[code]} (${code})${consequence}`);
}

export const codeOf = (error: unknown): string | undefined =>
  typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : undefined;
