import type { GenerateCommandOptions } from './commands/generate.ts';
import { print, printJson } from './output.ts';
import { generate, type LoadedModel, loadModel } from './train/fp8.ts';

export interface WrittenText {
  text: string;
  ids: number[];
  seconds: number;
}

/** `fp8lm generate`: streams the text to stdout, or prints it as one JSON object. */
export function writeText(options: GenerateCommandOptions): void {
  const { checkpoint, prompt, json, device } = options;
  const loaded = loadModel(checkpoint, device);
  if (!json) process.stdout.write(prompt);
  const written = continueText(loaded, prompt, options, json ? undefined : (text) => process.stdout.write(text));
  if (!json) return print();
  printJson({
    prompt,
    text: written.text,
    tokens: written.ids.length,
    tokensPerSecond: written.ids.length / written.seconds,
  });
}

/**
 * Continues a text.
 * @param onText hears each piece as soon as it is whole text: a token may end inside of a character
 */
export function continueText(
  { model, tokenizer, config }: LoadedModel,
  prompt: string,
  options: Pick<GenerateCommandOptions, 'maxTokens' | 'temperature' | 'topK' | 'topP' | 'seed'>,
  onText: (text: string) => void = () => {},
): WrittenText {
  const { maxTokens, temperature, topK, topP, seed } = options;
  const soFar: number[] = [];
  // Some tokenizers of the library drop the space before a first word, so theirs is decoded behind the prompt.
  const before = tokenizer.kind === 'hf' ? tokenizer.encode(prompt) : [];
  const { length } = tokenizer.decode(before);
  const decode = (ids: readonly number[]): string => tokenizer.decode([...before, ...ids]).slice(length);
  let shown = '';
  const start = performance.now();
  const ids = generate(model, tokenizer, prompt, {
    maxTokens,
    temperature,
    topP,
    seed,
    maxSeqLen: config.maxSeqLen,
    ...(topK === undefined ? {} : { topK: Math.min(topK, tokenizer.vocabSize) }),
    onToken(id) {
      soFar.push(id);
      const text = decode(soFar);
      if (text.endsWith('\ufffd') || !text.startsWith(shown)) return;
      onText(text.slice(shown.length));
      shown = text;
    },
  });
  const seconds = (performance.now() - start) / 1000;
  const text = decode(ids);
  if (text.startsWith(shown)) onText(text.slice(shown.length));
  return { text, ids, seconds };
}
