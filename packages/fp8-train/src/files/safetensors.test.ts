import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { userError } from '../../test/user_error.ts';
import { SAFETENSORS_BYTES } from './safetensors_header.ts';
import { SafetensorsFile, saveSafetensors, type TensorSource, writeSafetensors } from './safetensors.ts';

const dir = mkdtempSync(join(tmpdir(), 'safetensors-'));
afterAll(() => rmSync(dir, { recursive: true }));
const file = join(dir, 'x.safetensors');

const bytesOf = (length: number, seed: number) => Uint8Array.from({ length }, (_, i) => (i * 37 + seed * 101) & 0xff);

/** One tensor of each dtype, shapes with 0, 1 and 3 dims. */
const everyDtype = (Object.keys(SAFETENSORS_BYTES) as (keyof typeof SAFETENSORS_BYTES)[]).map((dtype, i) => {
  const shape = [[], [3], [2, 1, 5]][i % 3];
  const bytes = bytesOf(SAFETENSORS_BYTES[dtype] * shape.reduce((a, b) => a * b, 1), i);
  return { name: `h.${i}.${dtype}`, dtype, shape, bytes: () => bytes };
});

/** A file with this header text and this much data. */
function craft(header: string | Uint8Array, dataSize = 0, claimed?: bigint): string {
  const json = typeof header === 'string' ? Buffer.from(header) : header;
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimed ?? BigInt(json.length));
  writeFileSync(file, Buffer.concat([length, json, bytesOf(dataSize, 1)]));
  return file;
}

const openError = (path: string): string => userError(() => new SafetensorsFile(path).close());

const tensor = (dtype: string, shape: string, offsets: string) =>
  `{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}`;

describe('safetensors', () => {
  it('reads back every dtype, shape, and the metadata', () => {
    const written = saveSafetensors(file, everyDtype, { format: 'pt', note: 'ä "quoted" \n' });
    expect(written.size).toBe(statSync(file).size);
    const read = new SafetensorsFile(file);
    expect({ ...read.metadata }).toEqual({ format: 'pt', note: 'ä "quoted" \n' });
    expect(read.tensors.size).toBe(everyDtype.length);
    for (const { name, dtype, shape, bytes } of everyDtype) {
      expect(read.tensors.get(name)).toMatchObject({ dtype, shape });
      expect(read.read(name)).toEqual(bytes());
      expect(read.sum(name)).toBe(written.tensors[name]);
      expect(written.tensors[name]).toBe(createHash('sha256').update(bytes()).digest('hex'));
    }
    expect(read.headerSum).toBe(written.header);
    read.close();
  });

  it('starts the data at a multiple of 8 and aligns each tensor to its element', () => {
    for (let n = 0; n < 20; n++) {
      saveSafetensors(file, everyDtype, { pad: 'x'.repeat(n) });
      const bytes = readFileSync(file);
      const start = 8 + Number(bytes.readBigUInt64LE(0));
      expect(start % 8).toBe(0);
      const header = JSON.parse(bytes.subarray(8, start).toString());
      for (const { name, dtype } of everyDtype) expect(header[name].data_offsets[0] % SAFETENSORS_BYTES[dtype]).toBe(0);
    }
  });

  it('asks for the bytes of one tensor at a time', () => {
    let alive = 0;
    let most = 0;
    const lazy: TensorSource[] = Array.from({ length: 5 }, (_, i) => ({
      name: `t${i}`,
      dtype: 'U8',
      shape: [10],
      bytes: () => {
        most = Math.max(most, ++alive);
        queueMicrotask(() => alive--);
        return bytesOf(10, i);
      },
    }));
    expect(() => writeSafetensors(file, lazy)).not.toThrow();
    expect(most).toBe(5); // called once each, synchronously
  });

  it('is read by an independent reader', (test) => {
    saveSafetensors(file, everyDtype, { format: 'pt' });
    // Own parser in another language, from the format's description alone; Python's safetensors where it is installed.
    const script = `
import sys, json, struct, hashlib
raw = open(sys.argv[1], 'rb').read()
n, = struct.unpack('<Q', raw[:8])
head = json.loads(raw[8:8+n]); head.pop('__metadata__')
out = {k: [v['dtype'], v['shape'], hashlib.sha256(raw[8+n:][v['data_offsets'][0]:v['data_offsets'][1]]).hexdigest()] for k, v in head.items()}
lib = None
try:
    from safetensors import deserialize
    lib = {k: [v['dtype'], v['shape'], hashlib.sha256(bytes(v['data'])).hexdigest()] for k, v in deserialize(raw)}
except ImportError: pass
print(json.dumps([out, lib]))`;
    const run = spawnSync('python3', ['-c', script, file], { encoding: 'utf8' });
    if (run.error !== undefined) return test.skip('python3 is not installed');
    expect(run.stderr).toBe('');
    const [plain, lib] = JSON.parse(run.stdout);
    const expected = Object.fromEntries(
      everyDtype.map(({ name, dtype, shape, bytes }) => [
        name,
        [dtype, shape, createHash('sha256').update(bytes()).digest('hex')],
      ]),
    );
    expect(plain).toEqual(expected);
    if (lib !== null) expect(lib).toEqual(expected);
  });

  it('refuses to write tensors that do not fit, repeat, or have bad names, and leaves nothing behind', () => {
    const one = (name: string, shape = [4]): TensorSource => ({
      name,
      dtype: 'F32',
      shape,
      bytes: () => bytesOf(16, 0),
    });
    const target = join(dir, 'never.safetensors');
    expect(() => saveSafetensors(target, [one('a', [5])])).toThrow(/a is F32 \[5\], 20 bytes, but was given 16/);
    expect(() => saveSafetensors(target, [one('a'), one('a')])).toThrow(/two tensors are called "a"/);
    for (const name of [
      '',
      '__proto__',
      '__metadata__',
      '../x',
      '/etc/x',
      'a/../../x',
      'a\0b',
      'C:\\x',
      'x'.repeat(10_000),
    ])
      expect(() => saveSafetensors(target, [one(name)]), name).toThrow(RangeError);
    expect(() => saveSafetensors(target, [one('a', [2 ** 53])])).toThrow(RangeError);
    expect(() => statSync(target)).toThrow();
  });
});

describe('a damaged safetensors file', () => {
  it('is found at every truncation', () => {
    saveSafetensors(file, everyDtype);
    const whole = readFileSync(file);
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(file, whole.subarray(0, length));
      expect(openError(file), `cut to ${length}`).toMatch(/not a valid safetensors file/);
    }
    writeFileSync(file, Buffer.concat([whole, Buffer.of(0)]));
    expect(openError(file)).toMatch(/1 bytes after the last tensor belong to no tensor/);
  });

  it.each([
    ['a huge header', () => craft('{}', 0, 1n << 63n), /header claims 9223372036854775808 bytes/],
    ['a header beyond the file', () => craft('{}', 0, 3n), /Is it truncated/],
    ['an empty header', () => craft('', 0), /claims 0 bytes/],
    ['no JSON', () => craft('{"a":', 0), /not valid JSON/],
    ['an array', () => craft('[]', 0), /does not begin with \{/],
    ['invalid UTF-8', () => craft(Buffer.from([0x7b, 0xff, 0x7d])), /not valid JSON/],
    ['a leading space', () => craft(' {}'), /does not begin with \{/],
    [
      'a hole',
      () => craft(`{"a":${tensor('U8', '[1]', '[0,1]')},"b":${tensor('U8', '[1]', '[2,3]')}}`, 3),
      /bytes 1 to 2, before tensor b, belong to no tensor/,
    ],
    [
      'an overlap',
      () => craft(`{"a":${tensor('U8', '[2]', '[0,2]')},"b":${tensor('U8', '[2]', '[1,3]')}}`, 3),
      /tensor b at 1 overlaps/,
    ],
    ['a tensor beyond the end', () => craft(`{"a":${tensor('U8', '[9]', '[0,9]')}}`, 8), /need 9 bytes but 8 follow/],
    ['trailing data', () => craft(`{"a":${tensor('U8', '[2]', '[0,2]')}}`, 5), /3 bytes after the last tensor/],
    ['data but no tensor', () => craft('{}', 1), /1 bytes after/],
    [
      'a name twice',
      () => craft(`{"a":${tensor('U8', '[1]', '[0,1]')},"a":${tensor('U8', '[1]', '[0,1]')}}`, 1),
      /the key "a" twice/,
    ],
    [
      'a name twice, spelled apart',
      () => craft(`{"a":${tensor('U8', '[1]', '[0,1]')},"\\u0061":${tensor('U8', '[1]', '[0,1]')}}`, 1),
      /the key "a" twice/,
    ],
    [
      'a field twice',
      () => craft('{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
      /"dtype" twice/,
    ],
    ['an unknown dtype', () => craft(`{"a":${tensor('F7', '[1]', '[0,1]')}}`, 1), /dtype F7; known are/],
    ['an inherited dtype', () => craft(`{"a":${tensor('constructor', '[1]', '[0,1]')}}`, 1), /dtype constructor/],
    [
      'a wrong product',
      () => craft(`{"a":${tensor('F32', '[2]', '[0,4]')}}`, 4),
      /8 bytes, but its data_offsets span 4/,
    ],
    [
      'a shape that overflows',
      () => craft(`{"a":${tensor('U8', '[9007199254740991,9007199254740991,0]', '[0,0]')}}`),
      /data_offsets span 0/,
    ],
    ['a negative dim', () => craft(`{"a":${tensor('U8', '[-1]', '[0,1]')}}`, 1), /number -1, not a count/],
    ['a fractional dim', () => craft(`{"a":${tensor('U8', '[1.0]', '[0,1]')}}`, 1), /number 1\.0, not a count/],
    ['reversed offsets', () => craft(`{"a":${tensor('U8', '[1]', '[1,0]')}}`, 1), /data_offsets \[1,0\]/],
    ['three offsets', () => craft(`{"a":${tensor('U8', '[1]', '[0,1,1]')}}`, 1), /data_offsets/],
    ['no offsets', () => craft('{"a":{"dtype":"U8","shape":[1]}}', 1), /data_offsets none/],
    ['no shape', () => craft('{"a":{"dtype":"U8","data_offsets":[0,1]}}', 1), /no shape/],
    ['a tensor that is null', () => craft('{"a":null}'), /tensor a is not an object/],
    ['metadata that is no object', () => craft('{"__metadata__":[]}'), /__metadata__ is not an object/],
    ['metadata that is no string', () => craft('{"__metadata__":{"a":1}}'), /__metadata__ a is not a string/],
    ['a path as name', () => craft(`{"../../x":${tensor('U8', '[1]', '[0,1]')}}`, 1), /looks like a path/],
    ['__proto__', () => craft(`{"__proto__":${tensor('U8', '[1]', '[0,1]')}}`, 1), /is reserved/],
    ['a control character in a name', () => craft(`{"a\\nb":${tensor('U8', '[1]', '[0,1]')}}`, 1), /control character/],
    ['half a surrogate pair', () => craft(`{"\\ud800":${tensor('U8', '[1]', '[0,1]')}}`, 1), /surrogate/],
    ['deep nesting', () => craft(`{"a":${'['.repeat(1e6)}${']'.repeat(1e6)}}`), /nested deeper/],
    ['a folder', () => dir, /not a regular file|is a folder/],
    ['no file', () => join(dir, 'nothing'), /does not exist/],
  ])('is refused: %s', (_, make, expected) => {
    expect(openError(make())).toMatch(expected);
    expect(({} as Record<string, unknown>).dtype).toBeUndefined();
  });

  it('never crashes, whatever the header: only UserError or a file that covers its bytes exactly', () => {
    const names = fc.constantFrom('a', 'b', '__metadata__', '__proto__', 'dtype', '');
    const values = fc.oneof(
      fc.record({
        dtype: fc.constantFrom('U8', 'F32', 'F8_E4M3', 'X'),
        shape: fc.array(fc.constantFrom(0, 1, 2, 4, -1, 2 ** 53, 1.5), { maxLength: 3 }),
        data_offsets: fc.array(fc.nat(9), { minLength: 1, maxLength: 3 }),
      }),
      fc.jsonValue({ maxDepth: 2 }),
    );
    fc.assert(
      fc.property(fc.dictionary(names, values), fc.nat(12), (header, dataSize) => {
        const message = openError(craft(JSON.stringify(header), dataSize));
        if (message !== 'no error') return;
        const opened = new SafetensorsFile(file);
        let total = 0;
        for (const name of opened.tensors.keys()) total += opened.read(name).length;
        opened.close();
        expect(total).toBe(dataSize);
      }),
      { numRuns: 2000 },
    );
  });

  it('follows a link only where that is asked for', () => {
    saveSafetensors(file, everyDtype);
    const link = join(dir, 'link');
    symlinkSync(file, link);
    expect(openError(link)).toBe('no error');
    expect(() => new SafetensorsFile(link, { followLinks: false })).toThrow(/symbolic link/);
    const fifo = join(dir, 'fifo');
    if (spawnSync('mkfifo', [fifo]).status === 0) expect(openError(fifo)).toMatch(/not a regular file/);
  });
});
