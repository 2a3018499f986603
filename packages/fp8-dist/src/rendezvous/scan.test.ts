import fc from 'fast-check';
import { Packr } from 'msgpackr';
import { describe, expect, it } from 'vitest';
import { ProtocolError } from '../errors.ts';
import { pack } from './messages.ts';
import { scan } from './scan.ts';

describe('the scan before decoding', () => {
  it('passes what msgpackr makes of any value', () => {
    const plain = new Packr({ useRecords: false, useFloat32: 3 });
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), (value) => {
        scan(pack(value));
        scan(plain.pack(value));
      }),
      { numRuns: 2000 },
    );
    for (const n of [0, 31, 32, 255, 256, 65_535, 65_536]) {
      scan(pack('x'.repeat(n)));
      scan(pack(Buffer.alloc(n)));
    }
    scan(pack([1n << 60n, -1, -200, -70_000, 2 ** 40, 1.5, null, undefined, true, new Date()]));
    scan(pack(Array.from({ length: 5000 }, (_, i) => i)));
  });
  it('refuses any such message that was cut or lengthened', () => {
    const whole = pack({ rank: 1, host: 'h'.repeat(300), lists: [[1, 2], [3]], x: null, y: 2.5 });
    for (let n = 0; n < whole.length; n++) expect(() => scan(whole.subarray(0, n)), `${n}`).toThrow(ProtocolError);
    expect(() => scan(Buffer.concat([whole, Buffer.from([0])]))).toThrow('1 bytes behind');
  });
  it('refuses bombs', () => {
    const of = (byte: number[], n: number) => Buffer.concat(Array.from({ length: n }, () => Buffer.from(byte)));
    expect(() => scan(of([0xdd, 0xff, 0xff, 0xff, 0xff], 100))).toThrow('announces 4294967295 values');
    expect(() => scan(of([0x91], 100))).toThrow('nested deeper');
    expect(() => scan(Buffer.concat([Buffer.from([0xdd, 0, 0x10, 0, 0]), Buffer.alloc(1 << 20, 0x80)]))).toThrow(
      'values',
    );
    expect(() => scan(Buffer.from([0xc6, 0xff, 0xff, 0xff, 0xff, 0]))).toThrow('cut off');
  });
});
