import { decodeBf16, empty, scope, type Tensor, UserError } from 'fp8-core';
import { type SamplingOptions, sampleToken, type Tokenizer } from 'fp8-models';
import type { LanguageModel } from './trainer.ts';

export interface GenerateOptions extends SamplingOptions {
  maxTokens: number;
  /** Longest context of the model; generation ends there. */
  maxSeqLen: number;
  /** Called with each new token id. */
  onToken?: (id: number) => void;
}

/**
 * Continues a prompt with a key-value cache, one sequence.
 * @returns the new ids, the end-of-text id not included
 * @throws UserError if the prompt is empty or fills the model's context
 */
export function generate(
  model: LanguageModel,
  tokenizer: Tokenizer,
  prompt: string,
  options: GenerateOptions,
): number[] {
  const { maxTokens, maxSeqLen, onToken } = options;
  const { backend } = model.context;
  if (!model.makeCaches || !model.logits) throw new UserError('generate: this model has no cached forward pass');
  const ids = [...(tokenizer.prefix ?? []), ...tokenizer.encode(prompt)];
  if (ids.length === 0 && tokenizer.eosId !== undefined) ids.push(tokenizer.eosId);
  if (ids.length === 0) throw new UserError('generate: the prompt is empty; give some text with --prompt');
  if (ids.length >= maxSeqLen) {
    throw new UserError(`generate: the prompt has ${ids.length} tokens; the model's context is ${maxSeqLen}`);
  }
  const total = Math.min(maxSeqLen, ids.length + maxTokens);
  const caches = model.makeCaches(1, total);
  const made: number[] = [];
  try {
    let start = 0;
    let fresh = ids;
    while (start + fresh.length < total) {
      const logits = scope(() => {
        const tokens = empty(backend, [fresh.length, 1], 'i32');
        backend.write(tokens.handle, new Uint8Array(Int32Array.from(fresh).buffer));
        return readFloats((model.logits as NonNullable<LanguageModel['logits']>)(tokens, caches, start));
      });
      start += fresh.length;
      const id = sampleToken(logits.subarray(0, tokenizer.vocabSize), options, start);
      if (id === tokenizer.eosId) break;
      made.push(id);
      onToken?.(id);
      fresh = [id];
    }
    return made;
  } finally {
    for (const { keys, values } of caches) {
      keys.release();
      values.release();
    }
  }
}

/** A tensor's values as float32, whichever activation dtype it has. */
export function readFloats(t: Tensor): Float32Array {
  const bytes = new Uint8Array(t.numBytes);
  t.backend.read(t.handle, bytes);
  if (t.dtype === 'f32') return new Float32Array(bytes.buffer);
  if (t.dtype === 'bf16') return decodeBf16(new Uint16Array(bytes.buffer));
  throw new TypeError(`readFloats: ${t} is no activation`);
}
