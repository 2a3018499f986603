/**
 * Text to train on, read in pieces so that memory stays flat whatever the size: a file, a folder, or JSON lines.
 * Text is UTF-8; a byte-order mark is dropped, a stray invalid byte becomes U+FFFD, a file of them is refused.
 */
import { createHash } from 'node:crypto';
import { closeSync, readdirSync, readSync, statSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import { UserError } from 'fp8-core';
import { cutPoint } from 'fp8-models';
import { explainDisk, openRegular } from '../files/atomic.ts';

/** A piece of text, cut where a tokenizer may cut; `endsDocument` on the last piece of each document. */
export interface TextPiece {
  text: string;
  endsDocument: boolean;
}

export interface TextSource {
  /** For people: what it is and how large. */
  description: string;
  /** Bytes of the files. */
  numBytes: number;
  /** Fresh pass over the text. Throws UserError when a file turns out to be binary, empty or unreadable. */
  pieces(): Generator<TextPiece>;
  /** SHA-256 (hex) of the content, whatever the files are called. */
  hash(): string;
}

const TEXT_EXTENSIONS = new Set(
  'txt text md markdown rst tex org adoc html htm xml css csv tsv json jsonl ndjson yaml yml toml ini ts tsx mts cts js jsx mjs cjs py c h cc cpp hpp cu cuh java kt go rs rb php swift cs scala sh sql lua r jl hs ml'
    .split(' ')
    .map((extension) => `.${extension}`),
);

const BLOCK_BYTES = 1 << 20;
const PIECE_CHARS = 1 << 18;
/** Text without any space is cut here all the same. */
const MAX_PIECE_CHARS = 1 << 22;
/** More invalid bytes than this share of the file is another encoding or no text. */
const MAX_INVALID_SHARE = 1e-3;

/**
 * Opens text to train on.
 * @param path a text file; a `.jsonl` file with `{"text": …}` on each line, each a document; or a folder, searched for
 *   files of text extensions (not hidden ones, not node_modules), each a document
 * @throws UserError naming the path and why it cannot be used: missing, empty, binary, another encoding
 */
export function textSource(path: string): TextSource {
  const stat = statOf(path);
  const files = stat.isDirectory() ? textFiles(path) : [path];
  if (files.length === 0)
    throw new UserError(`data: ${path} has no text files (${[...TEXT_EXTENSIONS].slice(0, 6).join(' ')} …)`);
  let numBytes = 0;
  for (const file of files) {
    const size = statOf(file).size;
    numBytes += size;
    if (size > 0) probe(file);
  }
  if (numBytes === 0) throw new UserError(`data: ${path} is empty (0 bytes)`);
  const count = files.length === 1 ? '' : `${files.length} files, `;
  return {
    description: `${path} (${count}${(numBytes / 1e6).toFixed(2)} MB)`,
    numBytes,
    *pieces() {
      let any = false;
      for (const file of files)
        for (const piece of isJsonLines(file) ? jsonLines(file) : plainText(file)) {
          any ||= /\S/.test(piece.text);
          yield piece;
        }
      if (!any) throw new UserError(`data: ${path} has white space only`);
    },
    hash() {
      const hash = createHash('sha256');
      for (const file of files) {
        hash.update(`${isJsonLines(file) ? 'jsonl' : 'text'} ${statOf(file).size}\n`);
        for (const block of blocks(file)) hash.update(block);
      }
      return hash.digest('hex');
    },
  };
}

/** A source over text in memory. */
export function memorySource(text: string, description = `${text.length} characters`): TextSource {
  return {
    description,
    numBytes: Buffer.byteLength(text),
    *pieces() {
      yield { text, endsDocument: true };
    },
    hash: () => createHash('sha256').update(text).digest('hex'),
  };
}

/** All text of a source, up to a number of characters: to train a tokenizer on, or for small texts. */
export function readText(source: TextSource | string, maxChars = Infinity): string {
  let text = '';
  for (const piece of (typeof source === 'string' ? textSource(source) : source).pieces()) {
    text += piece.text;
    if (text.length >= maxChars) return text.slice(0, maxChars);
  }
  return text;
}

function* plainText(file: string): Generator<TextPiece> {
  let pending = '';
  for (const text of decoded(file)) {
    pending += text;
    if (pending.length < PIECE_CHARS) continue;
    let cut = cutPoint(pending, pending.length - 4096);
    if (cut < 0) cut = cutPoint(pending, 1);
    if (cut < 0 && pending.length > MAX_PIECE_CHARS)
      cut = /[\ud800-\udbff]$/.test(pending) ? pending.length - 1 : pending.length;
    if (cut <= 0) continue;
    yield { text: pending.slice(0, cut), endsDocument: false };
    pending = pending.slice(cut);
  }
  yield { text: pending, endsDocument: true };
}

function* jsonLines(file: string): Generator<TextPiece> {
  let number = 0;
  for (const line of lines(file)) {
    number++;
    if (line.trim() === '') continue;
    let row: unknown;
    try {
      row = JSON.parse(line);
    } catch {
      throw new UserError(`data: ${file}:${number} is not valid JSON`);
    }
    const text = typeof row === 'object' && row !== null && 'text' in row ? row.text : undefined;
    if (typeof text !== 'string')
      throw new UserError(`data: ${file}:${number} has no "text"; each line must be {"text": "…"}`);
    yield { text, endsDocument: true };
  }
}

function* lines(file: string): Generator<string> {
  let pending = '';
  for (const text of decoded(file)) {
    const parts = (pending + text).split('\n');
    pending = parts.pop()!;
    yield* parts;
  }
  yield pending;
}

/** The file's text block by block; refuses NUL bytes, and other encodings by their share of invalid bytes. */
function* decoded(file: string): Generator<string> {
  const decoder = new TextDecoder('utf-8');
  let numBytes = 0;
  let numInvalid = 0;
  for (const block of blocks(file)) {
    if (block.includes(0)) throw notText(file, 'it has NUL bytes');
    const text = decoder.decode(block, { stream: true });
    numBytes += block.length;
    numInvalid += countReplacements(text);
    if (numInvalid > Math.max(4, MAX_INVALID_SHARE * numBytes))
      throw notText(file, 'many of its bytes are not valid UTF-8');
    yield text;
  }
  yield decoder.decode();
}

function* blocks(file: string): Generator<Buffer> {
  const { fd } = openRegular(file, { followLinks: true });
  const buffer = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  try {
    for (;;) {
      const count = readSync(fd, buffer, 0, buffer.length, null);
      if (count === 0) return;
      yield buffer.subarray(0, count);
    }
  } catch (error) {
    throw explainDisk(error, 'read', file);
  } finally {
    closeSync(fd);
  }
}

/** Looks at the beginning, so that a wrong file is refused before any work is done. */
function probe(file: string): void {
  for (const _ of decoded(file)) return;
}

/** Files of text extensions, sorted by path, so that every machine sees one order. */
function textFiles(folder: string): string[] {
  const found: string[] = [];
  const entries = readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    if (entry.name.startsWith('.') || entry.name === 'node_modules') continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) found.push(...textFiles(path));
    else if (entry.isFile() && TEXT_EXTENSIONS.has(extname(entry.name).toLowerCase())) found.push(path);
  }
  return found;
}

function statOf(path: string) {
  try {
    return statSync(path);
  } catch (error) {
    throw explainDisk(error, 'read', path);
  }
}

function countReplacements(text: string): number {
  let count = 0;
  for (let i = text.indexOf('\ufffd'); i >= 0; i = text.indexOf('\ufffd', i + 1)) count++;
  return count;
}

const isJsonLines = (file: string) => /\.(jsonl|ndjson)$/i.test(file);

const notText = (file: string, reason: string) =>
  new UserError(`data: ${file} is not UTF-8 text: ${reason}; convert ${basename(file)} to UTF-8 text first`);
