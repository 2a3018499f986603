/**
 * Training of a byte-level BPE: start from the 256 bytes and, again and again, join the most frequent adjacent pair.
 *
 * The idea that makes it fast: merges never cross words, and text repeats its words, so everything runs on the
 * distinct words with their counts. Each pair keeps its count and the words it was seen in; a merge touches those
 * words only. A heap with lazy entries gives the most frequent pair: counts only fall between pushes, so an entry
 * whose count is out of date is pushed back with the present one.
 *
 * Ties go to the pair with the smaller ids, so the same text gives the same vocabulary on every machine. Two
 * different pairs may spell the same bytes; the second then reuses the id of the first, as Hugging Face's trainer does.
 *
 * @see Sennrich et al. 2016 (arXiv:1508.07909); Radford et al. 2019 for the byte level
 */
import { UserError } from 'fp8-core';
import { PairHeap } from './pair_heap.ts';
import { forEachWord } from './pretokenize.ts';
import { BpeTokenizer } from './bpe.ts';
import { END_OF_TEXT } from './tokenizer.ts';

export interface TrainBpeOptions {
  /** Number of ids wanted: 256 bytes + merges + special tokens. Less come out when no pair occurs twice. */
  vocabSize: number;
  /** Tokens with ids of their own at the end of the vocabulary; the first ends a document. Default `<|endoftext|>`. */
  specialTokens?: readonly string[];
  /** Called now and then with the number of merges found and wanted. */
  onProgress?: (done: number, total: number) => void;
}

/** Longer words (base64, text without spaces) are counted in parts: it bounds the work a merge does on one word. */
const MAX_WORD_BYTES = 512;

interface Pair {
  count: number;
  /** Indices of words that contain it now or did once. */
  words: number[];
}

/**
 * Trains a byte-level BPE on text, or on chunks of it (each chunk is tokenised on its own, as a document).
 * @throws UserError if the vocabulary cannot hold the bytes and special tokens, or there is no text
 */
export function trainBpe(text: string | Iterable<string>, options: TrainBpeOptions): BpeTokenizer {
  const specialTokens = options.specialTokens ?? [END_OF_TEXT];
  const { vocabSize } = options;
  const least = 256 + specialTokens.length;
  if (!Number.isInteger(vocabSize) || vocabSize < least)
    throw new UserError(
      `trainBpe: vocabulary of ${vocabSize} ids; a byte-level vocabulary with ${specialTokens.length} special tokens needs at least ${least}`,
    );
  const wanted = vocabSize - least;
  const { words, counts } = countWords(typeof text === 'string' ? [text] : text);
  if (words.length === 0) throw new UserError('trainBpe: the text is empty; give some text to learn a vocabulary from');

  // Ids stay below vocabSize, so a pair packs into one number (a small integer for vocabularies up to 46 340).
  const pairs = new Map<number, Pair>();
  for (let w = 0; w < words.length; w++) {
    const word = words[w];
    for (let i = 1; i < word.length; i++) {
      const key = word[i - 1] * vocabSize + word[i];
      const pair = pairs.get(key);
      if (pair === undefined) pairs.set(key, { count: counts[w], words: [w] });
      else {
        pair.count += counts[w];
        if (pair.words.at(-1) !== w) pair.words.push(w);
      }
    }
  }
  const heap = new PairHeap();
  for (const [key, pair] of pairs) heap.push(pair.count, key);

  const merges: [number, number][] = [];
  const spelling = Array.from({ length: 256 }, (_, byte) => String.fromCharCode(byte));
  const idOfSpelling = new Map(spelling.map((s, id) => [s, id]));
  const touched = new Set<number>();
  while (spelling.length < 256 + wanted && heap.size > 0) {
    const { count, key } = heap.pop();
    const pair = pairs.get(key);
    if (pair === undefined || pair.count < count) {
      if (pair !== undefined && pair.count > 1) heap.push(pair.count, key);
      continue;
    }
    if (count < 2) break; // a pair seen once teaches nothing
    const b = key % vocabSize;
    const a = (key - b) / vocabSize;
    const joined = spelling[a] + spelling[b];
    let id = idOfSpelling.get(joined);
    if (id === undefined) {
      id = spelling.length;
      spelling.push(joined);
      idOfSpelling.set(joined, id);
    }
    merges.push([a, b]);
    touched.clear();
    for (const w of pair.words) {
      const word = words[w];
      const merged = mergePair(word, a, b, id);
      if (merged === word) continue; // stale entry: the pair is gone from this word
      for (let i = 1; i < word.length; i++) pairs.get(word[i - 1] * vocabSize + word[i])!.count -= counts[w];
      words[w] = merged;
      for (let i = 1; i < merged.length; i++) {
        const next = merged[i - 1] * vocabSize + merged[i];
        let grown = pairs.get(next);
        if (grown === undefined) pairs.set(next, (grown = { count: 0, words: [] }));
        grown.count += counts[w];
        if (merged[i - 1] === id || merged[i] === id) {
          touched.add(next);
          if (grown.words.at(-1) !== w) grown.words.push(w);
        }
      }
    }
    if (pair.count === 0) pairs.delete(key);
    for (const next of touched) heap.push(pairs.get(next)!.count, next);
    if ((merges.length & 63) === 0) options.onProgress?.(merges.length, wanted);
  }
  options.onProgress?.(merges.length, wanted);
  return BpeTokenizer.fromMerges(merges, specialTokens);
}

/** The distinct words as byte ids, in the order of their first occurrence, with their counts. */
function countWords(chunks: Iterable<string>): { words: Int32Array[]; counts: number[] } {
  const countOf = new Map<string, number>();
  for (const chunk of chunks) forEachWord(chunk, (word) => countOf.set(word, (countOf.get(word) ?? 0) + 1));
  const words: Int32Array[] = [];
  const counts: number[] = [];
  const encoder = new TextEncoder();
  for (const [word, count] of countOf) {
    const bytes = encoder.encode(word);
    for (let start = 0; start < bytes.length; start += MAX_WORD_BYTES) {
      words.push(Int32Array.from(bytes.subarray(start, start + MAX_WORD_BYTES)));
      counts.push(count);
    }
  }
  return { words, counts };
}

/** The word with each (a, b), from left to right, replaced by id; the same object if there is none. */
function mergePair(word: Int32Array, a: number, b: number, id: number): Int32Array {
  let first = 0;
  while (first < word.length - 1 && !(word[first] === a && word[first + 1] === b)) first++;
  if (first >= word.length - 1) return word;
  let length = first;
  const merged = word.slice();
  for (let i = first; i < word.length; i++) {
    if (i < word.length - 1 && word[i] === a && word[i + 1] === b) {
      merged[length++] = id;
      i++;
    } else merged[length++] = word[i];
  }
  return merged.slice(0, length);
}
