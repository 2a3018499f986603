// What a Hugging Face model family is to us: its config.json against our GptConfig, and its tensors against our parameters, as a
// table. A family computes exactly what `Gpt` computes with the config it maps to, or it is refused.
import type { GptConfig } from '../config.ts';
import type { HfFields } from './fields.ts';

/** One of our parameters and the tensors of theirs that hold its rows, one below the other. */
export interface TensorMap {
  ours: string;
  /** Of ours. */
  shape: readonly number[];
  theirs: readonly { name: string; rows: number }[];
  /** Theirs are stored [in, out], ours is [out, in]. */
  transposed: boolean;
}

/** Shape of one of theirs. */
export const hfShape = ({ shape, transposed }: TensorMap, { rows }: TensorMap['theirs'][number]): number[] =>
  transposed ? [shape[1], rows] : [rows, ...shape.slice(1)];

/** What a config.json has besides the model. */
export interface HfExtras {
  bosId?: number;
  eosId?: number;
  /** PyTorch's name, `float32`. */
  torchDtype: string;
}

export interface HfFamily {
  /** `model_type` in config.json. */
  modelType: string;
  /** Of `architectures`: the model with a language-model head. */
  architecture: string;
  /** Before the name of every tensor but the head's; files saved from the model without its head leave it out. */
  prefix: string;
  /** Tensors that say nothing: masks, tables that follow from the config. */
  ignored: RegExp;
  /** @throws UserError naming the field that fp8lm does not compute as the family does */
  toGpt(fields: HfFields): GptConfig;
  /** config.json of a model of ours, or why the family has no such model. */
  fromGpt(config: GptConfig, extras: HfExtras): Record<string, unknown> | string;
  /** The table, in our order of parameters. Lazy: a config may claim any number of layers. */
  tensors(config: GptConfig): Iterable<TensorMap>;
}

/** A row of the table: one of theirs holds one of ours. */
export function same(ours: string, theirs: string, shape: readonly number[], transposed = false): TensorMap {
  return { ours, shape, theirs: [{ name: theirs, rows: shape[0] }], transposed };
}

/** Fields of ours that differ from what a family needs, as text; empty if none do. */
export function differences(config: GptConfig, needed: Partial<GptConfig>): string {
  return (Object.keys(needed) as (keyof GptConfig)[])
    .filter((key) => config[key] !== needed[key])
    .map((key) => `${key} ${config[key]} (needs ${needed[key]})`)
    .join(', ');
}
