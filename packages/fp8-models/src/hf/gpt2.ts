// GPT-2 (GPT2LMHeadModel). Its linear layers are `Conv1D`: weights [in, out], y = x w + b. c_attn gives q, k and v side by side,
// as our qkv does. `gelu_new` is the tanh form of GELU, which is ours; the mask `attn.bias` is no bias.
import type { GptConfig } from '../config.ts';
import { differences, type HfExtras, type HfFamily, same, type TensorMap } from './family.ts';
import type { HfFields } from './fields.ts';

export const gpt2: HfFamily = {
  modelType: 'gpt2',
  architecture: 'GPT2LMHeadModel',
  prefix: 'transformer.',
  ignored: /^transformer\.h\.\d+\.attn\.(bias|masked_bias)$/,

  toGpt(fields: HfFields): GptConfig {
    fields.only('activation_function', 'gelu_new', 'gelu_pytorch_tanh');
    fields.only('scale_attn_weights', true);
    fields.only('scale_attn_by_inverse_layer_idx', false);
    fields.only('add_cross_attention', false);
    const hiddenSize = fields.count('n_embd');
    const numHeads = fields.count('n_head');
    return {
      vocabSize: fields.count('vocab_size'),
      maxSeqLen: fields.count('n_positions'),
      numLayers: fields.count('n_layer'),
      numHeads,
      numKvHeads: numHeads,
      hiddenSize,
      ffnSize: fields.count('n_inner', 4 * hiddenSize),
      position: 'learned',
      ropeTheta: 10000,
      norm: 'layer',
      activation: 'gelu',
      bias: true,
      tied: fields.flag('tie_word_embeddings', true),
      dropout: 0,
      normEps: fields.positive('layer_norm_epsilon', 1e-5),
    };
  },

  fromGpt(c: GptConfig, { bosId, eosId, torchDtype }: HfExtras) {
    const wrong = differences(c, {
      position: 'learned',
      norm: 'layer',
      activation: 'gelu',
      bias: true,
      numKvHeads: c.numHeads,
    });
    if (wrong) return wrong;
    return {
      architectures: ['GPT2LMHeadModel'],
      model_type: 'gpt2',
      activation_function: 'gelu_new',
      vocab_size: c.vocabSize,
      n_positions: c.maxSeqLen,
      n_ctx: c.maxSeqLen,
      n_embd: c.hiddenSize,
      n_layer: c.numLayers,
      n_head: c.numHeads,
      n_inner: c.ffnSize === 4 * c.hiddenSize ? null : c.ffnSize,
      layer_norm_epsilon: c.normEps,
      initializer_range: 0.02,
      scale_attn_weights: true,
      resid_pdrop: c.dropout,
      embd_pdrop: c.dropout,
      attn_pdrop: 0,
      tie_word_embeddings: c.tied,
      bos_token_id: bosId ?? eosId ?? null,
      eos_token_id: eosId ?? null,
      torch_dtype: torchDtype,
      use_cache: true,
    };
  },

  *tensors({ vocabSize, maxSeqLen, numLayers, hiddenSize: dim, ffnSize, tied }: GptConfig): Generator<TensorMap> {
    yield same('wte.weight', 'transformer.wte.weight', [vocabSize, dim]);
    yield same('wpe.weight', 'transformer.wpe.weight', [maxSeqLen, dim]);
    for (let i = 0; i < numLayers; i++) {
      const [ours, theirs] = [`h.${i}`, `transformer.h.${i}`];
      yield* norm(`${ours}.ln1`, `${theirs}.ln_1`, dim);
      yield* conv1d(`${ours}.attn.qkv`, `${theirs}.attn.c_attn`, 3 * dim, dim);
      yield* conv1d(`${ours}.attn.proj`, `${theirs}.attn.c_proj`, dim, dim);
      yield* norm(`${ours}.ln2`, `${theirs}.ln_2`, dim);
      yield* conv1d(`${ours}.mlp.fc`, `${theirs}.mlp.c_fc`, ffnSize, dim);
      yield* conv1d(`${ours}.mlp.proj`, `${theirs}.mlp.c_proj`, dim, ffnSize);
    }
    yield* norm('lnf', 'transformer.ln_f', dim);
    if (!tied) yield same('head.weight', 'lm_head.weight', [vocabSize, dim]);
  },
};

function* norm(ours: string, theirs: string, dim: number): Generator<TensorMap> {
  yield same(`${ours}.weight`, `${theirs}.weight`, [dim]);
  yield same(`${ours}.bias`, `${theirs}.bias`, [dim]);
}

function* conv1d(ours: string, theirs: string, out: number, input: number): Generator<TensorMap> {
  yield same(`${ours}.weight`, `${theirs}.weight`, [out, input], true);
  yield same(`${ours}.bias`, `${theirs}.bias`, [out]);
}
