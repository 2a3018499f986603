// Llama (LlamaForCausalLM): q, k and v, and gate and up, are matrices of their own, where ours are one below the other. RoPE pairs
// element i of a head with i + headDim / 2 (`rotate_half`), as ours does; files in Meta's own layout (pairs 2 i, 2 i + 1) are not
// Hugging Face's.
import type { GptConfig } from '../config.ts';
import { differences, type HfExtras, type HfFamily, same, type TensorMap } from './family.ts';
import type { HfFields } from './fields.ts';

export const llama: HfFamily = {
  modelType: 'llama',
  architecture: 'LlamaForCausalLM',
  prefix: 'model.',
  ignored: /^model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$/,

  toGpt(fields: HfFields): GptConfig {
    fields.only('hidden_act', 'silu', 'swish');
    const hiddenSize = fields.count('hidden_size');
    const numHeads = fields.count('num_attention_heads');
    fields.only('head_dim', hiddenSize / numHeads);
    const bias = fields.flag('attention_bias', false);
    if (fields.flag('mlp_bias', false) !== bias)
      fields.refuse('mlp_bias', `fp8lm has biases in all linear layers or in none, and attention_bias is ${bias}`);
    return {
      vocabSize: fields.count('vocab_size'),
      maxSeqLen: fields.count('max_position_embeddings', 2048),
      numLayers: fields.count('num_hidden_layers'),
      numHeads,
      numKvHeads: fields.count('num_key_value_heads', numHeads),
      hiddenSize,
      ffnSize: fields.count('intermediate_size'),
      position: 'rope',
      ropeTheta: ropeTheta(fields),
      norm: 'rms',
      activation: 'swiglu',
      bias,
      tied: fields.flag('tie_word_embeddings', false),
      dropout: 0,
      normEps: fields.positive('rms_norm_eps', 1e-6),
    };
  },

  fromGpt(c: GptConfig, { bosId, eosId, torchDtype }: HfExtras) {
    const wrong = differences(c, { position: 'rope', norm: 'rms', activation: 'swiglu' });
    if (wrong) return wrong;
    return {
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      hidden_act: 'silu',
      vocab_size: c.vocabSize,
      max_position_embeddings: c.maxSeqLen,
      hidden_size: c.hiddenSize,
      intermediate_size: c.ffnSize,
      num_hidden_layers: c.numLayers,
      num_attention_heads: c.numHeads,
      num_key_value_heads: c.numKvHeads,
      head_dim: c.hiddenSize / c.numHeads,
      rms_norm_eps: c.normEps,
      rope_theta: c.ropeTheta,
      rope_scaling: null,
      attention_bias: c.bias,
      mlp_bias: c.bias,
      attention_dropout: 0,
      initializer_range: 0.02,
      tie_word_embeddings: c.tied,
      bos_token_id: bosId ?? null,
      eos_token_id: eosId ?? null,
      torch_dtype: torchDtype,
      use_cache: true,
    };
  },

  *tensors({ vocabSize, numLayers, numHeads, numKvHeads, hiddenSize: dim, ffnSize, bias, tied }: GptConfig) {
    const headDim = dim / numHeads;
    const qkv = { q_proj: dim, k_proj: numKvHeads * headDim, v_proj: numKvHeads * headDim };
    yield same('wte.weight', 'model.embed_tokens.weight', [vocabSize, dim]);
    for (let i = 0; i < numLayers; i++) {
      const [ours, theirs] = [`h.${i}`, `model.layers.${i}`];
      yield same(`${ours}.ln1.weight`, `${theirs}.input_layernorm.weight`, [dim]);
      yield* linear(`${ours}.attn.qkv`, `${theirs}.self_attn`, qkv, dim, bias);
      yield* linear(`${ours}.attn.proj`, `${theirs}.self_attn`, { o_proj: dim }, dim, bias);
      yield same(`${ours}.ln2.weight`, `${theirs}.post_attention_layernorm.weight`, [dim]);
      yield* linear(`${ours}.mlp.gate_up`, `${theirs}.mlp`, { gate_proj: ffnSize, up_proj: ffnSize }, dim, bias);
      yield* linear(`${ours}.mlp.proj`, `${theirs}.mlp`, { down_proj: dim }, ffnSize, bias);
    }
    yield same('lnf.weight', 'model.norm.weight', [dim]);
    if (!tied) yield same('head.weight', 'lm_head.weight', [vocabSize, dim]);
  },
};

/** One matrix of ours from those of theirs, by their names and rows. */
function* linear(
  ours: string,
  theirs: string,
  parts: Readonly<Record<string, number>>,
  input: number,
  bias: boolean,
): Generator<TensorMap> {
  const rows = Object.values(parts).reduce((a, b) => a + b, 0);
  for (const kind of bias ? ['weight', 'bias'] : ['weight'])
    yield {
      ours: `${ours}.${kind}`,
      shape: kind === 'weight' ? [rows, input] : [rows],
      theirs: Object.entries(parts).map(([name, n]) => ({ name: `${theirs}.${name}.${kind}`, rows: n })),
      transposed: false,
    };
}

/** Where it stands: at the top, or since transformers 5 in `rope_parameters`. Any scaling of positions is refused. */
function ropeTheta(fields: HfFields): number {
  for (const key of ['rope_scaling', 'rope_parameters']) {
    const inner = fields.inner(key);
    inner?.only('rope_type', 'default');
    inner?.only('type', 'default');
  }
  const parameters = fields.inner('rope_parameters');
  return parameters?.has('rope_theta') ? parameters.positive('rope_theta') : fields.positive('rope_theta', 10000);
}
