import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Tokenizer as HfEngine } from '@huggingface/tokenizers';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  BpeTokenizer,
  ByteTokenizer,
  HfTokenizer,
  loadTokenizer,
  type Tokenizer,
  tokenizerFromJson,
  trainBpe,
} from './index.ts';
import { cutPoint, pieces } from './pretokenize.ts';

/** Real text of every installation: the declaration files and the README of a development dependency. */
const packageDir = dirname(createRequire(import.meta.url).resolve('@types/node/package.json'));
const english = readdirSync(packageDir)
  .filter((name) => name.endsWith('.d.ts'))
  .sort()
  .map((name) => readFileSync(join(packageDir, name), 'utf8'))
  .join('')
  .slice(0, 400_000);

const world = [
  'Grüße aus Köln – “naïve” façade… Ωμέγα, Привет мир! 今日は世界。안녕하세요 שלום नमस्ते',
  '👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 \u{1F1E9}\u{1F1EA} e\u0301 \u00a0nbsp \u2028 \ufeffbom',
  'a\r\nb\r\n\r\n\r\nc\n\n\n   d\t\t\te     f          \n',
  "I'm you're they'll we've it's he'd don't 'tis ''' 's",
  `${' '.repeat(3000)}x${'\n'.repeat(500)}${'ab'.repeat(2000)}${'='.repeat(777)}`,
  '1234567890 3.14159 0xff 1e-9 \\u{1F600} {"json": [true, null]}',
  '\u0000\u0001\u007f\u0080\u00ad\uffff',
].join('\n');

const dir = mkdtempSync(join(tmpdir(), 'tokenizer-'));
afterAll(() => rmSync(dir, { recursive: true }));

/** A vocabulary of a few letters in the form of Llama 2's tokenizer.json. */
const hex = (byte: number): string => byte.toString(16).toUpperCase().padStart(2, '0');
const llamaTokens = [
  '<unk>',
  '<s>',
  '</s>',
  ...Array.from({ length: 256 }, (_, byte) => `<0x${hex(byte)}>`),
  '\u2581',
  'a',
  'b',
];
const llamaJson = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: [0, 1, 2].map((id) => ({
    id,
    content: llamaTokens[id],
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: {
    type: 'Sequence',
    normalizers: [
      { type: 'Prepend', prepend: '\u2581' },
      { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' },
    ],
  },
  pre_tokenizer: null,
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
  },
  decoder: {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '\u2581' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ],
  },
  model: {
    type: 'BPE',
    dropout: null,
    unk_token: '<unk>',
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback: true,
    vocab: Object.fromEntries(llamaTokens.map((token, id) => [token, id])),
    merges: [],
  },
};

let bpe: BpeTokenizer;
beforeAll(() => {
  bpe = trainBpe(english + world, { vocabSize: 2048 });
});

/** What Hugging Face's library makes of the file we wrote. */
const library = (tokenizer: Tokenizer) =>
  new HfEngine(JSON.parse(JSON.stringify(tokenizer.toJSON())), { clean_up_tokenization_spaces: false });

describe('BpeTokenizer', () => {
  it('reaches the vocabulary asked for and shortens the text', () => {
    expect(bpe.vocabSize).toBe(2048);
    expect(bpe.eosId).toBe(2047);
    expect(english.length / bpe.encode(english).length).toBeGreaterThan(3);
  });

  it('gives the ids that the library gives for its tokenizer.json, on real text', () => {
    const engine = library(bpe);
    for (const text of [english.slice(0, 120_000), world])
      expect([...bpe.encode(text)]).toEqual(engine.encode(text).ids);
  });

  it('gives the library ids for any string', () => {
    const engine = library(bpe);
    const alphabet = fc.constantFrom(..."abcE \n\t\r's19_{}é中👍\u0301<|endoftext|>");
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: 'binary' }),
          fc.array(alphabet).map((c) => c.join('')),
        ),
        (text) => {
          expect([...bpe.encode(text)]).toEqual(engine.encode(text).ids);
        },
      ),
      { numRuns: 400 },
    );
  });

  it('round-trips text, and bytes when a character is cut', () => {
    expect(bpe.decode(bpe.encode(english))).toBe(english);
    expect(bpe.decode(bpe.encode(world))).toBe(world);
    const ids = bpe.encode('héllo 👍');
    const bytes = ids.reduce<number[]>((all, id) => [...all, ...bpe.decodeBytes([id])], []);
    expect(Buffer.from(bytes).toString()).toBe('héllo 👍');
    expect(bpe.decode([])).toBe('');
  });

  it('is the same in one piece or in pieces', () => {
    const whole = bpe.encode(world + english.slice(0, 5000));
    const parts = [...pieces(world + english.slice(0, 5000), 97)];
    expect(parts.length).toBeGreaterThan(20);
    expect(parts.flatMap((part) => [...bpe.encode(part)])).toEqual([...whole]);
    expect(cutPoint('abc', 0)).toBe(-1);
    expect(cutPoint('ab cd', 0)).toBe(2);
    expect(cutPoint('ab cd', 2)).toBe(2);
  });

  it('encodes <|endoftext|> in the text as the end-of-document id', () => {
    const ids = bpe.encode('one<|endoftext|>two');
    expect([...ids].filter((id) => id === bpe.eosId)).toHaveLength(1);
    expect(bpe.decode(ids)).toBe('one<|endoftext|>two');
  });

  it('merges long words in n log n with the ids of the short way', () => {
    const long = 'abcdefgh'.repeat(20_000);
    const ids = bpe.encode(long);
    expect(bpe.decode(ids)).toBe(long);
    const middle = 'interface'.repeat(6); // 54 bytes: the long way
    expect([...bpe.encode(middle)]).toEqual(library(bpe).encode(middle).ids);
  });

  it('saves a folder that loads to the same ids', () => {
    bpe.save(dir);
    const again = loadTokenizer(dir);
    expect(again.kind).toBe('bpe');
    expect(again.eosId).toBe(bpe.eosId);
    expect(again.toJSON()).toEqual(bpe.toJSON());
    expect(again.encode(world)).toEqual(bpe.encode(world));
    expect(readdirSync(dir).sort()).toEqual(['tokenizer.json', 'tokenizer_config.json']);
  });

  it('throws RangeError for an id outside the vocabulary', () => {
    expect(() => bpe.decode([2048])).toThrow(/id 2048 is outside the vocabulary \[0, 2048\)/);
    expect(() => bpe.decode([-1])).toThrow(RangeError);
  });
});

describe('trainBpe', () => {
  it('finds the merges of a hand-made text', () => {
    const tokenizer = trainBpe('abab abab cd', { vocabSize: 256 + 3 });
    const merges = (tokenizer.toJSON().model.merges as [string, string][]).map((pair) => pair.join(' '));
    // (a,b) occurs 4 times; then (ab,ab) twice.
    expect(merges).toEqual(['a b', 'ab ab']);
  });

  it('agrees with a naive trainer that recounts after each merge', () => {
    const text = english.slice(20_000, 24_000);
    const fast = trainBpe(text, { vocabSize: 400, specialTokens: [] });
    expect(fast.toJSON().model.merges).toEqual(naiveMerges(text, 400 - 256));
  });

  it('is deterministic and independent of how chunks are handed over', () => {
    const chunks = [...pieces(english, 10_000)];
    const other = trainBpe(chunks, { vocabSize: 1000 });
    expect(other.toJSON()).toEqual(trainBpe(english, { vocabSize: 1000 }).toJSON());
  });

  it('stops early when no pair occurs twice', () => {
    expect(trainBpe('abcdefg', { vocabSize: 5000 }).vocabSize).toBe(257);
  });

  it('reports progress up to the end', () => {
    const seen: number[] = [];
    trainBpe(english.slice(0, 50_000), { vocabSize: 600, onProgress: (done, total) => seen.push(done / total) });
    expect(seen.at(-1)).toBe(1);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
  });

  it('refuses a vocabulary that cannot hold the bytes, and empty text', () => {
    expect(() => trainBpe('abc', { vocabSize: 200 })).toThrow(/vocabulary of 200 ids.*at least 257/);
    expect(() => trainBpe('', { vocabSize: 300 })).toThrow(/text is empty/);
  });
});

describe('ByteTokenizer', () => {
  it('gives the UTF-8 bytes as ids', () => {
    const tokenizer = new ByteTokenizer();
    expect([...tokenizer.encode('hé\n')]).toEqual([104, 195, 169, 10]);
    expect(tokenizer.vocabSize).toBe(257);
    expect([...tokenizer.encode('a<|endoftext|>b')]).toEqual([97, 256, 98]);
    expect(tokenizer.decode(tokenizer.encode(world))).toBe(world);
    expect(new ByteTokenizer({ specialTokens: [] }).vocabSize).toBe(256);
  });

  it('saves as a tokenizer.json that the library runs alike, and loads as itself', () => {
    const tokenizer = new ByteTokenizer();
    expect(library(tokenizer).encode(world).ids).toEqual([...tokenizer.encode(world)]);
    const again = tokenizerFromJson(tokenizer.toJSON());
    expect(again.kind).toBe('byte');
    expect(again.vocabSize).toBe(257);
  });
});

describe('loadTokenizer', () => {
  it('runs other tokenizers by the library', () => {
    const json = structuredClone(bpe.toJSON());
    json.normalizer = { type: 'Lowercase' };
    const tokenizer = tokenizerFromJson(json);
    expect(tokenizer.kind).toBe('hf');
    expect(tokenizer.vocabSize).toBe(2048);
    expect(tokenizer.eosId).toBe(2047);
    expect(tokenizer.decode(tokenizer.encode('Hello WORLD'))).toBe('hello world');
    expect(() => tokenizer.decode([9999])).toThrow(RangeError);
    expect(tokenizer).toBeInstanceOf(HfTokenizer);
  });

  it('runs Llama’s: `<s>` before a text, bytes where a character is unknown; its files come out as they went in', () => {
    const tokenizer = tokenizerFromJson(llamaJson, { eos_token: '</s>', chat_template: '{{ x }}' });
    expect(tokenizer.prefix).toEqual([1]);
    expect(tokenizer.eosId).toBe(2);
    const ids = tokenizer.encode('ab a');
    expect([...ids].map((id) => llamaTokens[id])).toEqual(['\u2581', 'a', 'b', '\u2581', 'a']);
    expect(tokenizer.decode(ids)).toBe('ab a');
    expect(tokenizer.decode(tokenizer.encode('é€'))).toBe('é€');
    tokenizer.save(join(dir, 'llama'));
    const again = loadTokenizer(join(dir, 'llama'));
    expect([again.toJSON(), again.toConfig(), again.eosId]).toEqual([
      llamaJson,
      { eos_token: '</s>', chat_template: '{{ x }}' },
      2,
    ]);
  });

  it('gives a byte-level tokenizer.json back as it came, whatever else it says', () => {
    const json = { ...structuredClone(bpe.toJSON()), post_processor: { type: 'ByteLevel', trim_offsets: false } };
    const tokenizer = tokenizerFromJson(json, { model_max_length: 1024 });
    expect(tokenizer.kind).toBe('bpe');
    expect(tokenizer.eosId).toBe(2047);
    expect(tokenizer.prefix ?? []).toEqual([]);
    expect([tokenizer.toJSON(), tokenizer.toConfig()]).toEqual([json, { model_max_length: 1024 }]);
  });

  it('reads merges in the old form, "a b" in one string', () => {
    const json = structuredClone(bpe.toJSON());
    json.model.merges = (json.model.merges as [string, string][]).map((pair) => pair.join(' '));
    expect(tokenizerFromJson(json).encode(world)).toEqual(bpe.encode(world));
  });

  it('reads vocab.json and merges.txt, as GPT-2 came before tokenizer.json', () => {
    const old = join(dir, 'old');
    mkdirSync(old);
    const { vocab, merges } = bpe.toJSON().model as { vocab: Record<string, number>; merges: string[][] };
    writeFileSync(join(old, 'vocab.json'), JSON.stringify(vocab));
    writeFileSync(join(old, 'merges.txt'), `#version: 0.2\n${merges.map((pair) => `${pair.join(' ')}\n`).join('')}`);
    const tokenizer = loadTokenizer(old);
    expect([tokenizer.kind, tokenizer.eosId]).toEqual(['bpe', 2047]);
    expect(tokenizer.encode(`${world}<|endoftext|>`)).toEqual(bpe.encode(`${world}<|endoftext|>`));
  });

  it('names the file and the reason when it cannot', () => {
    const file = join(dir, 'broken.json');
    expect(() => loadTokenizer(join(dir, 'none'))).toThrow(/none does not exist/);
    writeFileSync(file, '{"model"');
    expect(() => loadTokenizer(file)).toThrow(/broken\.json cannot be read/);
    writeFileSync(file, '{"a": 1}');
    expect(() => loadTokenizer(file)).toThrow(/broken\.json has no "model"/);
    writeFileSync(file, '{"model": {"type": "Nonsense", "vocab": {}}}');
    expect(() => loadTokenizer(file)).toThrow(/broken\.json cannot be used/);
  });
});

/** Trainer by definition: recount all pairs after each merge, take the most frequent, smallest ids first. */
function naiveMerges(text: string, count: number): [string, string][] {
  const split = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
  const spelling = (new ByteTokenizer({ specialTokens: [] }).toJSON().model.vocab ?? {}) as Record<string, number>;
  const names = Object.keys(spelling).sort((a, b) => spelling[a] - spelling[b]);
  const words = (text.match(split) ?? []).map((word) => [...new TextEncoder().encode(word)]);
  const merges: [string, string][] = [];
  for (let m = 0; m < count; m++) {
    const counts = new Map<string, number>();
    for (const word of words)
      for (let i = 1; i < word.length; i++) {
        const key = `${word[i - 1]},${word[i]}`;
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
    const ranked = [...counts].map(([key, n]) => [n, ...key.split(',').map(Number)]);
    ranked.sort((x, y) => y[0] - x[0] || x[1] - y[1] || x[2] - y[2]);
    if (ranked.length === 0 || ranked[0][0] < 2) break;
    const [, a, b] = ranked[0];
    let id = names.indexOf(names[a] + names[b]);
    if (id < 0) id = names.push(names[a] + names[b]) - 1;
    merges.push([names[a], names[b]]);
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i++) if (word[i] === a && word[i + 1] === b) word.splice(i, 2, id);
  }
  return merges;
}
