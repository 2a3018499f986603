/**
 * Reading and writing safetensors files with positional reads and streamed writes: at no time is more than one tensor
 * in memory. Every tensor's SHA-256 is taken from the bytes in memory as they are handed over, so a manifest of these
 * sums vouches for the state that was to be saved, not for whatever reached the disk.
 */
import { createHash } from 'node:crypto';
import { closeSync, fsyncSync, mkdirSync, openSync, readSync, renameSync } from 'node:fs';
import { dirname } from 'node:path';
import { UserError } from 'fp8-core';
import { explainDisk, openRegular, removeQuietly, syncFolder, writeFully } from './atomic.ts';
import {
  checkHeaderLength,
  layoutHeader,
  parseHeader,
  tensorBytes,
  type TensorInfo,
  type TensorPlace,
} from './safetensors_header.ts';

export type { SafetensorsDtype, TensorInfo } from './safetensors_header.ts';

/** A tensor to be written: `bytes` is called once, when its turn has come. */
export interface TensorSource extends TensorInfo {
  name: string;
  /** Little-endian elements, row-major; exactly shape product x element size. */
  bytes: () => Uint8Array;
}

export interface WrittenSafetensors {
  /** Bytes of the file. */
  size: number;
  /** SHA-256 (hex) of the length bytes and the header. */
  header: string;
  /** SHA-256 (hex) of each tensor's bytes. */
  tensors: Record<string, string>;
}

/** Writes one safetensors file aside and renames it. @throws UserError when the disk refuses */
export function saveSafetensors(
  path: string,
  tensors: Iterable<TensorSource>,
  metadata?: Record<string, string>,
): WrittenSafetensors {
  const aside = `${path}.tmp-${process.pid}`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    const written = writeSafetensors(aside, tensors, metadata);
    renameSync(aside, path);
    syncFolder(dirname(path));
    return written;
  } catch (error) {
    removeQuietly(aside);
    throw explainDisk(error, 'write', path);
  }
}

/**
 * Writes a new file in place and forces it to the disk; system errors pass unchanged. A checkpoint writes its folder
 * aside; for a file of its own use `saveSafetensors`.
 * @throws RangeError if a tensor's bytes do not fit its shape, or for a bad or repeated name
 */
export function writeSafetensors(
  path: string,
  tensors: Iterable<TensorSource>,
  metadata?: Record<string, string>,
): WrittenSafetensors {
  const list = [...tensors];
  const { header, order } = layoutHeader(list, metadata);
  const sums: Record<string, string> = Object.create(null);
  const fd = openSync(path, 'w');
  try {
    writeFully(fd, header);
    let size = header.length;
    for (const i of order) {
      const { name, dtype, shape } = list[i];
      const bytes = list[i].bytes();
      const expected = tensorBytes(dtype, shape);
      if (bytes.byteLength !== expected)
        throw new RangeError(
          `safetensors: tensor ${name} is ${dtype} [${shape.join(', ')}], ${expected} bytes, but was given ${bytes.byteLength}`,
        );
      sums[name] = sha256(bytes);
      writeFully(fd, bytes);
      size += expected;
    }
    fsyncSync(fd);
    return { size, header: sha256(header), tensors: sums };
  } finally {
    closeSync(fd);
  }
}

/** An open safetensors file, its header checked. Close it. */
export class SafetensorsFile {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** Tensors in the order of their bytes. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** SHA-256 (hex) of the length bytes and the header. */
  readonly headerSum: string;
  readonly size: number;
  readonly #places: Map<string, TensorPlace>;
  readonly #dataStart: number;
  #fd: number;

  /**
   * @param options.followLinks false refuses a symbolic link (checkpoints); default true (model hubs link their files)
   * @throws UserError naming the file and what is wrong with it
   */
  constructor(path: string, options: { followLinks?: boolean } = {}) {
    const { fd, size } = openRegular(path, { followLinks: options.followLinks ?? true });
    this.path = path;
    this.size = size;
    this.#fd = fd;
    try {
      const first8 = readAt(fd, Buffer.alloc(Math.min(8, size)), 0, path);
      const headerLength = checkHeaderLength(first8, size, path);
      const json = readAt(fd, Buffer.allocUnsafeSlow(headerLength), 8, path);
      this.#dataStart = 8 + headerLength;
      const { metadata, tensors } = parseHeader(json, size - this.#dataStart, path);
      this.metadata = metadata;
      this.tensors = this.#places = tensors;
      this.headerSum = createHash('sha256').update(first8).update(json).digest('hex');
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /**
   * Reads one tensor into memory of its own (aligned for any typed array), or into `target`.
   * @throws UserError if there is no such tensor, or the file has become shorter
   */
  read(name: string, target?: Uint8Array): Uint8Array {
    const place = this.#places.get(name);
    if (place === undefined) throw new UserError(`${this.path} has no tensor ${name}`);
    const length = place.end - place.begin;
    const into = target ?? new Uint8Array(length);
    if (into.byteLength !== length)
      throw new RangeError(`safetensors: tensor ${name} has ${length} bytes but the target ${into.byteLength}`);
    return readAt(this.#fd, into, this.#dataStart + place.begin, this.path);
  }

  /** SHA-256 (hex) of a tensor's bytes on the disk, read in pieces. */
  sum(name: string): string {
    const place = this.#places.get(name);
    if (place === undefined) throw new UserError(`${this.path} has no tensor ${name}`);
    const hash = createHash('sha256');
    const buffer = Buffer.allocUnsafeSlow(Math.min(1 << 20, Math.max(1, place.end - place.begin)));
    for (let at = place.begin; at < place.end; at += buffer.length) {
      const part = buffer.subarray(0, Math.min(buffer.length, place.end - at));
      hash.update(readAt(this.#fd, part, this.#dataStart + at, this.path));
    }
    return hash.digest('hex');
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}

/** Fills `target` from the file at `position`. */
function readAt<T extends Uint8Array>(fd: number, target: T, position: number, path: string): T {
  const MAX_READ = 1 << 30;
  for (let done = 0; done < target.byteLength; ) {
    const count = readSync(fd, target, done, Math.min(MAX_READ, target.byteLength - done), position + done);
    if (count === 0)
      throw new UserError(`${path} ends at byte ${position + done}; it became shorter while it was read`);
    done += count;
  }
  return target;
}

export const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');
