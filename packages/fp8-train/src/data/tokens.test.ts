import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { ByteTokenizer, type Tokenizer, trainBpe } from 'fp8-models';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { userError } from '../../test/user_error.ts';
import { shuffled } from './permutation.ts';
import { evalBatches, Sampler, type Batch } from './sampler.ts';
import { memorySource, textSource } from './text_source.ts';
import { prepareTokens, TokenDataset, writeTokenFile } from './token_file.ts';
import { memoryTokens, randomTokens, splitTokens, type TokenSource } from './tokens.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'tokens-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

/** Tokens 0, 1, 2 …: every window tells where it was taken. */
const counting = (numTokens: number) =>
  memoryTokens(
    Array.from({ length: numTokens }, (_, i) => i),
    numTokens,
  );

const all = (source: TokenSource) => {
  const target = new Int32Array(source.numTokens);
  source.read(0, source.numTokens, target);
  return target;
};

describe('a token file', () => {
  const text = 'The quick brown fox – ümlaut 👍\n'.repeat(500);

  it('holds the ids of the text, documents ended, and reads at any position', () => {
    const tokenizer = trainBpe(text, { vocabSize: 300 });
    const info = writeTokenFile(join(dir, 'x'), memorySource(text), tokenizer);
    const data = new TokenDataset(join(dir, 'x'));
    const expected = [...tokenizer.encode(text), tokenizer.eosId!];
    expect([...all(data)]).toEqual(expected);
    expect(info).toMatchObject({
      dtype: 'u16',
      numTokens: expected.length,
      vocabSize: tokenizer.vocabSize,
      textBytes: Buffer.byteLength(text),
    });
    expect(statSync(join(dir, 'x.bin')).size).toBe(2 * expected.length);
    const part = new Int32Array(7);
    data.read(11, 7, part);
    expect([...part]).toEqual(expected.slice(11, 18));
    expect(() => data.read(expected.length - 3, 4, part)).toThrow(RangeError);
    data.close();
    expect(readdirSync(dir).sort()).toEqual(['x.bin', 'x.json']);
  });

  it('begins each document with what the tokenizer puts before a text', () => {
    writeFileSync(join(dir, 'two.jsonl'), '{"text": "ab"}\n{"text": "c"}\n');
    const tokenizer = Object.assign(new ByteTokenizer(), { prefix: [7, 8] });
    writeTokenFile(join(dir, 'two'), textSource(join(dir, 'two.jsonl')), tokenizer);
    const data = new TokenDataset(join(dir, 'two'));
    expect([...all(data)]).toEqual([7, 8, 97, 98, 256, 7, 8, 99, 256]);
    data.close();
  });

  it('is the same for text streamed from a large file as for the whole text', () => {
    const large = text.repeat(60); // several blocks of reading
    writeFileSync(join(dir, 'large.txt'), large);
    const tokenizer = trainBpe(text, { vocabSize: 300 });
    writeTokenFile(join(dir, 'x'), textSource(join(dir, 'large.txt')), tokenizer);
    const data = new TokenDataset(join(dir, 'x'));
    const expected = tokenizer.encode(large);
    const ids = all(data);
    expect(ids.length).toBe(expected.length + 1);
    expect(ids.subarray(0, expected.length).every((id, i) => id === expected[i])).toBe(true);
    data.close();
  });

  it('takes 4 bytes an id above 65536 ids', () => {
    const wide = { ...plain(70_000), encode: () => Int32Array.of(0, 65_536, 69_999) };
    writeTokenFile(join(dir, 'x'), memorySource('x'), wide);
    const data = new TokenDataset(join(dir, 'x.bin'));
    expect(data.info.dtype).toBe('u32');
    expect([...all(data)]).toEqual([0, 65_536, 69_999]);
    data.close();
  });

  it('is made once for a text and a tokenizer, and anew when damaged', () => {
    const tokenizer = new ByteTokenizer();
    let made = 0;
    const prepare = (content: string, by: Tokenizer = tokenizer) => {
      const data = prepareTokens(memorySource(content), by, join(dir, 'cache'), () => made++);
      const ids = all(data);
      data.close();
      return { ids, path: data.path };
    };
    const first = prepare('some text');
    expect(prepare('some text')).toEqual(first);
    expect(made).toBe(1);
    prepare('other text');
    prepare('some text', new ByteTokenizer({ specialTokens: [] }));
    expect(made).toBe(3);
    const bytes = readFileSync(first.path);
    bytes[3] ^= 1;
    writeFileSync(first.path, bytes);
    expect(prepare('some text')).toEqual(first);
    truncateSync(first.path, 3);
    expect(prepare('some text')).toEqual(first);
    expect(made).toBe(5);
  });

  it('is refused with one clear line when it is damaged', () => {
    const path = join(dir, 'x');
    const open = () => new TokenDataset(path).close();
    expect(userError(open)).toMatch(/cannot read .*x\.json: it does not exist/);
    writeTokenFile(path, memorySource('hello world'), new ByteTokenizer());
    const bin = readFileSync(`${path}.bin`);
    const json = readFileSync(`${path}.json`, 'utf8');
    bin[4] ^= 0x10;
    writeFileSync(`${path}.bin`, bin);
    expect(userError(open)).toMatch(/x\.bin is damaged: it does not match its checksum/);
    writeFileSync(`${path}.bin`, bin.subarray(0, 5));
    expect(userError(open)).toMatch(/x\.bin has 5 bytes but .*x\.json says 12 tokens of 2 bytes/);
    for (const bad of [
      '{',
      '[]',
      'null',
      '{"format":"other"}',
      json.replace('"u16"', '"u8"'),
      json.replace('12', '-1'),
    ]) {
      writeFileSync(`${path}.json`, bad);
      expect(userError(open), bad).toMatch(/x\.json/);
    }
    // An id beyond the vocabulary must not reach the embedding, even where the checksum was not asked for.
    writeFileSync(`${path}.json`, json);
    writeFileSync(`${path}.bin`, new Uint8Array(24).fill(0xff));
    const unchecked = new TokenDataset(path, { verify: false });
    expect(() => all(unchecked)).toThrow(/token 65535 at 0 is outside the vocabulary \[0, 257\)/);
    unchecked.close();
  });

  it('leaves nothing behind when the text turns out to be binary', () => {
    writeFileSync(join(dir, 'late.txt'), Buffer.concat([Buffer.alloc(2 << 20, 'a '), Buffer.of(0)]));
    expect(
      userError(() => writeTokenFile(join(dir, 'x'), textSource(join(dir, 'late.txt')), new ByteTokenizer())),
    ).toMatch(/NUL bytes/);
    expect(readdirSync(dir)).toEqual(['late.txt']);
  });

  const plain = (vocabSize: number): Tokenizer => ({
    kind: 'hf',
    vocabSize,
    encode: () => new Int32Array(),
    decode: () => '',
    toJSON: () => ({ model: {} }),
    toConfig: () => ({}),
    save: () => {},
  });
});

describe('splitTokens', () => {
  it('gives two parts without overlap, the tail for validation', () => {
    const { train, val } = splitTokens(counting(1000), 0.1, 16);
    expect([...all(train), ...all(val!)]).toEqual([...all(counting(1000))]);
    expect(val!.numTokens).toBe(100);
    expect(() => train.read(895, 6, new Int32Array(6))).toThrow(RangeError);
  });

  it('takes at least one sequence and its last target', () => {
    expect(splitTokens(counting(1000), 0.001, 32).val!.numTokens).toBe(33);
    expect(splitTokens(counting(66), 0.5, 32).train.numTokens).toBe(33);
    expect(splitTokens(counting(33), 0, 32)).toMatchObject({ val: undefined });
  });

  it('says the numbers when there are too few tokens', () => {
    expect(userError(() => splitTokens(counting(65), 0.1, 32))).toMatch(
      /65 tokens are too few: sequences of 32 need 33 for training beside 33/,
    );
    expect(userError(() => splitTokens(counting(10), 0, 32))).toMatch(/10 tokens are too few/);
    for (const bad of [-0.1, 1, NaN])
      expect(userError(() => splitTokens(counting(100), bad, 4))).toMatch(/must be in \[0, 1\)/);
  });
});

describe('shuffled', () => {
  it('is a permutation for any length and seed', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3000 }), fc.integer(), (n, seed) => {
        const seen = new Uint8Array(n);
        for (let i = 0; i < n; i++) seen[shuffled(i, n, seed)]++;
        expect(seen.every((count) => count === 1)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it('shuffles: few fixed points, no run, another order for another seed', () => {
    const n = 10_000;
    const order = Array.from({ length: n }, (_, i) => shuffled(i, n, 5));
    expect(order.filter((value, i) => value === i).length).toBeLessThan(10);
    expect(order.filter((value, i) => i > 0 && value === order[i - 1] + 1).length).toBeLessThan(10);
    // Correlation of place and value, 5 sigma.
    const mean = (n - 1) / 2;
    const covariance = order.reduce((sum, value, i) => sum + (value - mean) * (i - mean), 0) / n;
    expect(Math.abs(covariance / ((n * n) / 12))).toBeLessThan(5 / Math.sqrt(n));
    expect(order.filter((value, i) => value === shuffled(i, n, 6)).length).toBeLessThan(10);
  });
});

describe('Sampler', () => {
  const T = 8;
  /** First token of each sequence of a batch. */
  const starts = (sampler: Sampler, batch: number) => [...sampler.nextBatch(batch).inputs.subarray(0, batch)];

  it('gives windows sequence-first, targets one token later', () => {
    const { inputs, targets } = new Sampler(counting(200), { seqLen: T }).nextBatch(3);
    for (let b = 0; b < 3; b++)
      for (let t = 0; t < T; t++) {
        expect(inputs[t * 3 + b]).toBe(inputs[b] + t);
        expect(targets[t * 3 + b]).toBe(inputs[b] + t + 1);
      }
  });

  it('takes each window once an epoch', () => {
    const sampler = new Sampler(counting(1000), { seqLen: T, seed: 3 });
    for (let epoch = 0; epoch < 4; epoch++) {
      expect(sampler.state()).toEqual({ epoch, index: 0 });
      const n = sampler.numSequences();
      const seen = Array.from({ length: n }, () => starts(sampler, 1)[0]);
      const sorted = seen.toSorted((a, b) => a - b);
      expect(sorted.map((start) => start - sorted[0])).toEqual(Array.from({ length: n }, (_, i) => i * T));
      expect(seen).not.toEqual(sorted);
      expect(n).toBeGreaterThanOrEqual(Math.floor(999 / T) - 1);
    }
  });

  it('resumes exactly from any position, across epochs', () => {
    const source = counting(150);
    const whole = new Sampler(source, { seqLen: T, seed: 1 });
    for (let step = 0; step < 30; step++) {
      const state = JSON.parse(JSON.stringify(whole.state()));
      const resumed = new Sampler(source, { seqLen: T, seed: 1 });
      resumed.restore(state);
      expect(resumed.nextBatch(5)).toEqual(whole.nextBatch(5));
    }
  });

  it('shows N ranks with batch b the sequences that one rank with batch N*b sees', () => {
    const source = counting(500);
    const one = new Sampler(source, { seqLen: T, seed: 9 });
    const ranks = [0, 1, 2].map((rank) => new Sampler(source, { seqLen: T, seed: 9, rank, worldSize: 3 }));
    for (let step = 0; step < 40; step++) {
      const together = ranks.flatMap((sampler) => starts(sampler, 4));
      expect(together.toSorted()).toEqual(starts(one, 12).toSorted());
      for (const sampler of ranks) expect(sampler.state()).toEqual(one.state());
    }
  });

  it('differs by seed, and repeats for the same', () => {
    const run = (seed: number) => starts(new Sampler(counting(2000), { seqLen: T, seed }), 20);
    expect(run(1)).toEqual(run(1));
    expect(run(1)).not.toEqual(run(2));
  });

  it('works with as little as one sequence, and says so when there is less', () => {
    const tiny = new Sampler(counting(T + 1), { seqLen: T });
    expect(starts(tiny, 3)).toEqual([0, 0, 0]);
    expect(tiny.state().epoch).toBe(3);
    expect(userError(() => new Sampler(counting(T), { seqLen: T }))).toMatch(
      /8 tokens are too few: sequences of 8 need 9/,
    );
  });

  it('refuses a position of other data', () => {
    const sampler = new Sampler(counting(100), { seqLen: T });
    for (const state of [{ epoch: 0, index: 5000 }, { epoch: -1, index: 0 }, { epoch: 0, index: NaN }, {} as never])
      expect(userError(() => sampler.restore(state))).toMatch(/does not fit these data/);
  });
});

describe('evalBatches', () => {
  /** First tokens of the sequences that count; the others have no targets. */
  const starts = (batches: Iterable<Batch>) =>
    [...batches].map(({ inputs, targets, batch }) =>
      [...inputs.subarray(0, batch)].filter((_, b) => {
        const column = targets.filter((_, i) => i % batch === b);
        const ignored = column.every((target) => target === -1);
        if (!ignored) expect(column.every((target, t) => target === inputs[t * batch + b] + 1)).toBe(true);
        return !ignored;
      }),
    );

  it('covers every window once, in order, the same at every call; the last batch is filled up', () => {
    const run = () => starts(evalBatches(counting(8 * 10 + 1), { seqLen: 8, batch: 3 }));
    expect(run()).toEqual([[0, 8, 16], [24, 32, 40], [48, 56, 64], [72]]);
    expect(run()).toEqual(run());
  });

  it('stops at maxBatches', () => {
    expect([...evalBatches(counting(1000), { seqLen: 8, batch: 2, maxBatches: 3 })]).toHaveLength(3);
  });

  it('divides the windows among ranks, each with as many batches', () => {
    const ranks = [0, 1].map((rank) =>
      starts(evalBatches(counting(8 * 9 + 1), { seqLen: 8, batch: 2, rank, worldSize: 2 })),
    );
    expect(ranks[0]).toHaveLength(3);
    expect(ranks[1]).toHaveLength(3);
    expect(ranks.flat(2).toSorted((a, b) => a - b)).toEqual([0, 8, 16, 24, 32, 40, 48, 56, 64]);
  });
});

describe('randomTokens', () => {
  it('is a function of seed and position, uniform over the vocabulary', () => {
    const source = randomTokens(50, 7);
    const ids = new Int32Array(50_000);
    source.read(1_000_000_000, ids.length, ids);
    const again = new Int32Array(10);
    source.read(1_000_000_005, 10, again);
    expect([...again]).toEqual([...ids.subarray(5, 15)]);
    const counts = new Float64Array(50);
    for (const id of ids) counts[id]++;
    for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(5 * Math.sqrt(1000));
    expect(new Sampler(source, { seqLen: 16 }).nextBatch(2).inputs).toHaveLength(32);
  });
});
