/**
 * Tokens on the disk: raw little-endian uint16 (uint32 above 65 536 ids) in `NAME.bin`, as nanoGPT has it, and what
 * they are in `NAME.json`. Reads are positional into a small buffer and the system's page cache holds the rest, so
 * memory stays flat however large the file is: what a memory map would give, without native code.
 */
import { createHash } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, readSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { UserError } from 'fp8-core';
import type { Tokenizer } from 'fp8-models';
import { atomicWrite, explainDisk, openRegular, removeQuietly, syncFolder, writeFully } from '../files/atomic.ts';
import type { TextSource } from './text_source.ts';
import { checkIds, checkRange, type TokenSource } from './tokens.ts';

const FORMAT = 'fp8lm-tokens';
const VERSION = 1;

/** Content of the side file. */
export interface TokenFileInfo {
  dtype: 'u16' | 'u32';
  vocabSize: number;
  numTokens: number;
  /** SHA-256 (hex) of the tokenizer's JSON. */
  tokenizer: string;
  /** SHA-256 (hex) of the tokens. */
  sha256: string;
  /** Bytes of text, for bits per byte. */
  textBytes: number;
}

/** SHA-256 (hex) of a tokenizer's JSON. */
export const tokenizerHash = (tokenizer: Tokenizer): string =>
  createHash('sha256')
    .update(`${JSON.stringify(tokenizer.toJSON())} ${tokenizer.eosId}`)
    .digest('hex');

/** The ids of a text: documents begin with the tokenizer's prefix, if it has one, and end with its eosId. */
export function* encodeDocuments(
  source: TextSource,
  tokenizer: Tokenizer,
): Generator<{ ids: Int32Array; text: string }> {
  const { prefix = [], eosId } = tokenizer;
  let begins = true;
  for (const { text, endsDocument } of source.pieces()) {
    const ids = tokenizer.encode(text);
    const before = begins ? prefix : [];
    const after = endsDocument && eosId !== undefined ? [eosId] : [];
    begins = endsDocument;
    const all = new Int32Array(before.length + ids.length + after.length);
    all.set(before);
    all.set(ids, before.length);
    all.set(after, before.length + ids.length);
    yield { text, ids: all };
  }
}

/**
 * Tokenises text into `PATH.bin` and `PATH.json`, each aside and renamed. See `encodeDocuments`.
 * @param path without extension
 * @throws UserError when the text or the disk cannot be used
 */
export function writeTokenFile(
  path: string,
  source: TextSource,
  tokenizer: Tokenizer,
  onProgress?: (doneBytes: number, totalBytes: number) => void,
): TokenFileInfo {
  const dtype = tokenizer.vocabSize <= 1 << 16 ? 'u16' : 'u32';
  const aside = `${path}.bin.tmp-${process.pid}`;
  const hash = createHash('sha256');
  let numTokens = 0;
  let textBytes = 0;
  try {
    mkdirSync(dirname(path), { recursive: true });
    const fd = openSync(aside, 'w');
    try {
      const put = (ids: ArrayLike<number>) => {
        const packed = dtype === 'u16' ? Uint16Array.from(ids) : Uint32Array.from(ids);
        const bytes = new Uint8Array(packed.buffer);
        hash.update(bytes);
        writeFully(fd, bytes);
        numTokens += ids.length;
      };
      for (const { ids, text } of encodeDocuments(source, tokenizer)) {
        put(ids);
        textBytes += Buffer.byteLength(text);
        onProgress?.(textBytes, source.numBytes);
      }
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(aside, `${path}.bin`);
    syncFolder(dirname(path));
    const info: TokenFileInfo = {
      dtype,
      vocabSize: tokenizer.vocabSize,
      numTokens,
      tokenizer: tokenizerHash(tokenizer),
      sha256: hash.digest('hex'),
      textBytes,
    };
    atomicWrite(`${path}.json`, `${JSON.stringify({ format: FORMAT, version: VERSION, ...info }, null, 1)}\n`);
    return info;
  } catch (error) {
    removeQuietly(aside);
    throw explainDisk(error, 'write', `${path}.bin`);
  }
}

/** A token file, open for reading at any position. Close it. */
export class TokenDataset implements TokenSource {
  readonly info: TokenFileInfo;
  readonly numTokens: number;
  readonly vocabSize: number;
  readonly path: string;
  readonly #width: 2 | 4;
  #fd: number;
  #buffer = new Uint8Array(0);

  /**
   * @param path with or without `.bin`
   * @param options.verify check the content's SHA-256 now (about 0.6 s per GB). Default true
   * @throws UserError naming the file and what is wrong with it
   */
  constructor(path: string, options: { verify?: boolean } = {}) {
    const stem = path.replace(/\.(bin|json)$/, '');
    this.path = `${stem}.bin`;
    this.info = readInfo(`${stem}.json`);
    this.numTokens = this.info.numTokens;
    this.vocabSize = this.info.vocabSize;
    this.#width = this.info.dtype === 'u16' ? 2 : 4;
    const { fd, size } = openRegular(this.path, { followLinks: true });
    this.#fd = fd;
    try {
      const expected = this.numTokens * this.#width;
      if (size !== expected)
        throw new UserError(
          `data: ${this.path} has ${size} bytes but ${stem}.json says ${this.numTokens} tokens of ${this.#width} bytes; delete both, they are made anew`,
        );
      if (options.verify !== false && this.#hash() !== this.info.sha256)
        throw new UserError(
          `data: ${this.path} is damaged: it does not match its checksum; delete it and ${stem}.json, they are made anew`,
        );
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  read(start: number, count: number, target: Int32Array): void {
    checkRange(start, count, this.numTokens);
    const length = count * this.#width;
    if (this.#buffer.length < length) this.#buffer = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const got = readSync(this.#fd, this.#buffer, done, length - done, start * this.#width + done);
      if (got === 0) throw new UserError(`data: ${this.path} became shorter while it was read`);
      done += got;
    }
    // Node runs on little-endian machines only, so the bytes are the numbers.
    const Packed = this.#width === 2 ? Uint16Array : Int32Array;
    target.set(new Packed(this.#buffer.buffer, 0, count));
    checkIds(target, count, this.vocabSize, this.path);
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  #hash(): string {
    const hash = createHash('sha256');
    const buffer = Buffer.allocUnsafeSlow(1 << 20);
    for (let at = 0; ; ) {
      const got = readSync(this.#fd, buffer, 0, buffer.length, at);
      if (got === 0) return hash.digest('hex');
      hash.update(buffer.subarray(0, got));
      at += got;
    }
  }
}

/**
 * The token file of a text and a tokenizer in a folder: made at the first call, found by the hash of both later.
 * A damaged file is made anew.
 */
export function prepareTokens(
  source: TextSource,
  tokenizer: Tokenizer,
  folder: string,
  onProgress?: (doneBytes: number, totalBytes: number) => void,
): TokenDataset {
  const key = createHash('sha256')
    .update(`${VERSION} ${source.hash()} ${tokenizerHash(tokenizer)}`)
    .digest('hex')
    .slice(0, 16);
  const path = join(folder, `tokens-${key}`);
  if (existsSync(`${path}.json`) && existsSync(`${path}.bin`)) {
    try {
      return new TokenDataset(path);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
    }
  }
  writeTokenFile(path, source, tokenizer, onProgress);
  return new TokenDataset(path, { verify: false });
}

function readInfo(path: string): TokenFileInfo {
  let info: Record<string, unknown>;
  try {
    info = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  } catch (error) {
    if (error instanceof SyntaxError) throw new UserError(`data: ${path} is not valid JSON`);
    throw explainDisk(error, 'read', path);
  }
  const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  if (typeof info !== 'object' || info === null || info.format !== FORMAT || info.version !== VERSION)
    throw new UserError(`data: ${path} does not describe a token file (format ${FORMAT}, version ${VERSION})`);
  if (!['u16', 'u32'].includes(info.dtype as string) || !isCount(info.numTokens) || !isCount(info.vocabSize))
    throw new UserError(`data: ${path} is damaged: dtype, numTokens or vocabSize is missing`);
  return info as unknown as TokenFileInfo;
}
