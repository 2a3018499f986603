import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { userError } from '../../test/user_error.ts';
import { builtinCorpus } from './corpus.ts';
import { memorySource, readText, textSource } from './text_source.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'text-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

const put = (name: string, content: string | Uint8Array) => {
  const path = join(dir, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, content);
  return path;
};

describe('textSource', () => {
  it('reads a large file in pieces that join to the text, multi-byte characters whole', () => {
    const text = Array.from({ length: 90_000 }, (_, i) => `Zeile ${i}: Grüße, 世界 👍\n`).join('');
    const source = textSource(put('big.txt', text));
    const pieces = [...source.pieces()];
    expect(pieces.length).toBeGreaterThan(3);
    expect(pieces.map((piece) => piece.text).join('') === text).toBe(true);
    expect(pieces.map((piece) => piece.endsDocument)).toEqual([...pieces.slice(1).map(() => false), true]);
    expect(source.numBytes).toBe(Buffer.byteLength(text));
    expect(readText(source, 100)).toBe(text.slice(0, 100));
  });

  it('reads text without any space', () => {
    const text = '\u{1F600}'.repeat(3_000_000);
    const pieces = [...textSource(put('nospace.txt', text)).pieces()];
    expect(pieces.length).toBeGreaterThan(1);
    expect(pieces.every(({ text: piece }) => !/^[\udc00-\udfff]|[\ud800-\udbff]$/.test(piece))).toBe(true);
    expect(pieces.reduce((sum, piece) => sum + piece.text.length, 0)).toBe(text.length);
  });

  it('reads JSON lines, one document each', () => {
    const rows = ['one', 'two\nlines', 'drei ü'].map((text) => JSON.stringify({ text, other: 1 }));
    const pieces = [...textSource(put('rows.jsonl', `${rows.join('\n')}\n\n`)).pieces()];
    expect(pieces).toEqual(['one', 'two\nlines', 'drei ü'].map((text) => ({ text, endsDocument: true })));
    expect(userError(() => readText(put('bad.jsonl', '{"text":"a"}\n{"txt":1}\n')))).toMatch(
      /bad\.jsonl:2 has no "text"/,
    );
    expect(userError(() => readText(put('bad2.jsonl', '{"text":"a"}\nnope\n')))).toMatch(
      /bad2\.jsonl:2 is not valid JSON/,
    );
  });

  it('reads a folder in one order, each file a document, without hidden files, node_modules, other kinds', () => {
    put('tree/b.md', 'B\n');
    put('tree/a/z.txt', 'A\n');
    put('tree/.hidden.txt', 'no');
    put('tree/node_modules/x.md', 'no');
    put('tree/image.png', Uint8Array.of(137, 80, 0));
    const pieces = [...textSource(join(dir, 'tree')).pieces()];
    expect(pieces).toEqual([
      { text: 'A\n', endsDocument: true },
      { text: 'B\n', endsDocument: true },
    ]);
    symlinkSync(join(dir, 'tree'), join(dir, 'tree/a/loop'));
    expect([...textSource(join(dir, 'tree')).pieces()]).toHaveLength(2);
  });

  it('drops a byte-order mark, keeps a stray invalid byte as U+FFFD', () => {
    expect(readText(put('bom.txt', '\ufeffabc def'))).toBe('abc def');
    const bytes = Buffer.concat([Buffer.from('word '.repeat(2000)), Buffer.of(0xff), Buffer.from(' end')]);
    expect(readText(put('stray.txt', bytes))).toBe(`${'word '.repeat(2000)}\ufffd end`);
  });

  it.each([
    ['missing', () => join(dir, 'nowhere'), /cannot read .*nowhere: it does not exist/],
    ['empty', () => put('empty.txt', ''), /empty\.txt is empty/],
    ['white space only', () => put('blank.txt', ' \n\n\t'), /blank\.txt has white space only/],
    [
      'binary',
      () =>
        put(
          'x.bin',
          Uint8Array.from({ length: 5000 }, (_, i) => (i * i) & 255),
        ),
      /NUL bytes/,
    ],
    ['UTF-16', () => put('utf16.txt', Buffer.from('hello', 'utf16le')), /NUL bytes; convert utf16\.txt to UTF-8/],
    [
      'Latin-1',
      () => put('latin1.txt', Buffer.from('Grüße aus Köln, schöne Grüße. '.repeat(50), 'latin1')),
      /not valid UTF-8/,
    ],
    [
      'compressed',
      () =>
        put(
          'x.gz',
          Uint8Array.from({ length: 4000 }, (_, i) => 1 + ((i * 2654435761) % 255)),
        ),
      /not valid UTF-8/,
    ],
    ['a folder without text', () => join(put('none/x.png', 'x'), '..'), /has no text files/],
    ['a folder of empty files', () => join(put('void/x.txt', ''), '..'), /is empty/],
  ])('refuses with one clear line: %s', (_, make, expected) => {
    expect(userError(() => readText(make()))).toMatch(expected);
  });

  it('finds bad bytes behind the first block too', () => {
    const path = put('late.txt', Buffer.concat([Buffer.alloc(3 << 20, 'a '), Buffer.of(0)]));
    expect(userError(() => readText(path))).toMatch(/late\.txt is not UTF-8 text: it has NUL bytes/);
  });

  it('hashes the content, not the name', () => {
    const a = textSource(put('h1.txt', 'same'));
    const b = textSource(put('h2.txt', 'same'));
    expect(a.hash()).toBe(b.hash());
    expect(textSource(put('h3.txt', 'other')).hash()).not.toBe(a.hash());
    expect(textSource(put('h4.jsonl', '{"text":"same"}')).hash()).not.toBe(
      textSource(put('h5.txt', '{"text":"same"}')).hash(),
    );
    expect(memorySource('x').hash()).toBe(memorySource('x').hash());
  });
});

describe('builtinCorpus', () => {
  it('finds 1 to 4 MB of real text in the installation, always the same', () => {
    const corpus = builtinCorpus();
    expect(corpus.text.length).toBeGreaterThan(1e6);
    expect(corpus.text.length).toBeLessThanOrEqual(4e6);
    expect(corpus.sources.length).toBeGreaterThan(0);
    expect(corpus.description).toMatch(/built-in text \(.+\)/);
    expect(corpus.text).toMatch(/interface Promise</);
    expect(builtinCorpus().hash()).toBe(corpus.hash());
    expect([...corpus.pieces()]).toEqual([{ text: corpus.text, endsDocument: true }]);
  });

  it('repeats no declaration, so held-out text is not a copy of training text', () => {
    const blocks = builtinCorpus()
      .text.split(/\n(?=\S)/)
      .filter((block) => block.length >= 40);
    expect(new Set(blocks).size).toBeGreaterThan(0.999 * blocks.length);
  });

  it('obeys the limits', () => {
    const small = builtinCorpus({ maxChars: 50_000 });
    expect(small.text.length).toBeLessThanOrEqual(50_000);
    const more = builtinCorpus({ minChars: 3.5e6 });
    expect(more.sources.length).toBeGreaterThan(1);
  });
});
