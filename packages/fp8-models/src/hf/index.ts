// The registry of Hugging Face's model families: a family is a file and a line here.
import { UserError } from 'fp8-core';
import { checkConfig, type GptConfig } from '../config.ts';
import type { HfExtras, HfFamily } from './family.ts';
import { HfFields } from './fields.ts';
import { gpt2 } from './gpt2.ts';
import { llama } from './llama.ts';

export { type HfExtras, type HfFamily, hfShape, type TensorMap } from './family.ts';

export const hfFamilies: readonly HfFamily[] = [gpt2, llama];

const known = (): string => hfFamilies.map(({ architecture }) => architecture).join(', ');

/**
 * Reads a config.json.
 * @param origin named in messages
 * @throws UserError naming the field and its value if it is not a model that fp8lm computes
 */
export function fromHfConfig(json: unknown, origin: string): { family: HfFamily; config: GptConfig } {
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw new UserError(`${origin}: it holds no object; a Hugging Face model has {"model_type": …}`);
  const { model_type: modelType, architectures } = json as Record<string, unknown>;
  const family = hfFamilies.find((f) => f.modelType === modelType);
  if (!family) throw new UserError(`${origin}: model_type is ${text(modelType)}; fp8lm reads ${known()}`);
  const fields = new HfFields(json as Record<string, unknown>, origin);
  if (Array.isArray(architectures) && architectures.length > 0) {
    const [architecture] = architectures as unknown[];
    const base = family.architecture.replace(/(LMHeadModel|ForCausalLM)$/, 'Model');
    if (architecture !== family.architecture && architecture !== base)
      fields.refuse('architectures', `fp8lm reads ${known()}`);
  }
  if (fields.has('quantization_config'))
    fields.refuse('quantization_config', 'fp8lm reads weights in F32, F16 or BF16');
  try {
    return { family, config: checkConfig(family.toGpt(fields)) };
  } catch (error) {
    if (error instanceof UserError && !error.message.startsWith(origin))
      throw new UserError(`${origin}: ${error.message}`);
    throw error;
  }
}

/**
 * The family that a model of ours belongs to, and its config.json.
 * @throws UserError naming the fields that fit no family
 */
export function toHfConfig(
  config: GptConfig,
  extras: HfExtras,
): { family: HfFamily; json: Readonly<Record<string, unknown>> } {
  const reasons: string[] = [];
  for (const family of hfFamilies) {
    const json = family.fromGpt(config, extras);
    if (typeof json !== 'string') return { family, json };
    reasons.push(`${family.architecture}: ${json}`);
  }
  throw new UserError(`no Hugging Face family has this model; ${reasons.join('; ')}`);
}

const text = (value: unknown): string => (value === undefined ? 'missing' : JSON.stringify(value).slice(0, 80));
