/**
 * GPT-2's split of text into words, within which (never across which) BPE merges.
 * Space goes to the following word; a run of white space gives its last character to the next word.
 * JavaScript's \s differs from other engines' in U+0085 and U+FEFF only.
 * @see Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2
 */
export const GPT2_SPLIT = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

const WORD_END = /\S\s/g;

/**
 * The first position at or after `from` where text can be cut without changing its tokens, or -1.
 * That is any place between a non-space and a space: no alternative of the split spans it, and the only look-ahead
 * starts at a space. (Tokenizers with other splits treat line and word ends as borders too, or nearly so.)
 */
export function cutPoint(text: string, from: number): number {
  WORD_END.lastIndex = Math.max(0, from - 1);
  const match = WORD_END.exec(text);
  return match === null ? -1 : match.index + 1;
}

/** Cuts text into pieces of about `size` UTF-16 units that tokenise as the whole does. */
export function* pieces(text: string, size = 1 << 18): Generator<string> {
  let start = 0;
  while (text.length - start > size) {
    const cut = cutPoint(text, start + size);
    if (cut < 0) break;
    yield text.slice(start, cut);
    start = cut;
  }
  if (start < text.length) yield start === 0 ? text : text.slice(start);
}

/** Calls `visit` with each word of the text, in order. */
export function forEachWord(text: string, visit: (word: string) => void): void {
  for (const piece of pieces(text)) for (const word of piece.match(GPT2_SPLIT) ?? []) visit(word);
}
