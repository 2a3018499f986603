// A decoder-only transformer, sequence first: activations are [T, B, C].
//
//   x  = embed(tokens) (+ positions)
//   x += attn.proj(attention(attn.qkv(ln1(x))))         per layer
//   x += mlp.proj(gelu(mlp.fc(ln2(x))))
//   loss = crossEntropy(lnf(x) head^T)
//
// Each producer (norm, GELU, SwiGLU) casts at the site of the linear layer that reads it, so FP8 costs no pass of its own.
import {
  type ActDType,
  add,
  attention,
  attentionCached,
  checkpoint,
  dropout,
  dropoutAdd,
  embedding,
  empty,
  gelu,
  type Heads,
  type HeadLossOptions,
  hashName,
  headLoss,
  isTraining,
  type KvCache,
  LayerNorm,
  Linear,
  type ModelContext,
  Module,
  Parameter,
  persist,
  RmsNorm,
  rope,
  scope,
  swiglu,
  type Tensor,
} from 'fp8-core';
import { checkConfig, type GptConfig } from './config.ts';
import { type GptPart, wholeModel } from './parts.ts';

/** What to recompute in backward instead of keeping: whole layers, or the halves of each. */
export type Recompute = 'full' | 'attention' | 'mlp';

/** What changes from call to call. */
export interface ForwardOptions {
  /** Names the dropout masks; a new value for each micro-batch, the same for its recomputation. */
  dropoutKey?: number;
  /** Recompute activations in backward instead of keeping them; true is `full`. */
  recompute?: boolean | Recompute;
}

/** What the last part of a model needs besides hidden states. */
export interface Targets {
  /** i32 [T, B]; a negative target is ignored. */
  targets: Tensor;
  /** How many targets are not negative. */
  numTargets: number;
}

class Attention extends Module {
  readonly qkv: Linear;
  readonly proj: Linear;
  private readonly heads: Heads;
  private readonly theta: number | null;

  constructor(context: ModelContext, name: string, c: GptConfig) {
    super();
    const headDim = c.hiddenSize / c.numHeads;
    this.heads = { heads: c.numHeads, kvHeads: c.numKvHeads, headDim };
    this.theta = c.position === 'rope' ? c.ropeTheta : null;
    this.qkv = new Linear(context, `${name}.qkv`, c.hiddenSize, (c.numHeads + 2 * c.numKvHeads) * headDim, {
      bias: c.bias,
    });
    this.proj = new Linear(context, `${name}.proj`, c.hiddenSize, c.hiddenSize, {
      bias: c.bias,
      init: residualInit(c),
    });
  }

  forward(x: Tensor, cache: KvCache | null, start: number): Tensor {
    let qkv = this.qkv.forward(x);
    if (this.theta !== null) qkv = rope(qkv, this.heads, this.theta, start);
    return this.proj.forward(cache ? attentionCached(qkv, this.heads, cache, start) : attention(qkv, this.heads));
  }
}

class Mlp extends Module {
  /** fc, or gate and up side by side. */
  readonly fc: Linear;
  readonly proj: Linear;
  private readonly gated: boolean;

  constructor(context: ModelContext, name: string, c: GptConfig) {
    super();
    this.gated = c.activation === 'swiglu';
    const fcName = `${name}.${this.gated ? 'gate_up' : 'fc'}`;
    this.fc = new Linear(context, fcName, c.hiddenSize, (this.gated ? 2 : 1) * c.ffnSize, { bias: c.bias });
    this.proj = new Linear(context, `${name}.proj`, c.ffnSize, c.hiddenSize, { bias: c.bias, init: residualInit(c) });
  }

  forward(x: Tensor): Tensor {
    const h = this.fc.forward(x);
    return this.proj.forward((this.gated ? swiglu : gelu)(h, this.proj.inputSite));
  }
}

/** GPT-2: the projections into the residual stream start smaller, so that its variance does not grow with depth. */
const residualInit = (c: GptConfig) => ({ std: 0.02 / Math.sqrt(2 * c.numLayers) });

const makeNorm = (context: ModelContext, name: string, c: GptConfig): LayerNorm | RmsNorm =>
  c.norm === 'rms'
    ? new RmsNorm(context, name, c.hiddenSize, { eps: c.normEps })
    : new LayerNorm(context, name, c.hiddenSize, { bias: c.bias, eps: c.normEps });

class Block extends Module {
  readonly ln1: LayerNorm | RmsNorm;
  readonly attn: Attention;
  readonly ln2: LayerNorm | RmsNorm;
  readonly mlp: Mlp;
  private readonly rate: number;
  private readonly streams: [number, number];
  private readonly seed: number;

  constructor(context: ModelContext, name: string, c: GptConfig) {
    super();
    this.ln1 = makeNorm(context, `${name}.ln1`, c);
    this.attn = new Attention(context, `${name}.attn`, c);
    this.ln2 = makeNorm(context, `${name}.ln2`, c);
    this.mlp = new Mlp(context, `${name}.mlp`, c);
    this.rate = c.dropout;
    this.seed = context.seed;
    this.streams = [hashName(`${name}.attn.dropout`), hashName(`${name}.mlp.dropout`)];
  }

  forward(x: Tensor, key: number, recompute: Recompute | null = null): Tensor {
    if (recompute === 'full') return checkpoint(x, (h) => this.halves(h, key, null, null, 0));
    return this.halves(x, key, recompute, null, 0);
  }

  /** With keys and values of earlier tokens, for generation. */
  forwardCached(x: Tensor, cache: KvCache, start: number): Tensor {
    return this.halves(x, 0, null, cache, start);
  }

  private halves(x: Tensor, key: number, recompute: Recompute | null, cache: KvCache | null, start: number): Tensor {
    const attend = (h: Tensor): Tensor =>
      this.residual(h, this.attn.forward(this.ln1.forward(h, this.attn.qkv.inputSite), cache, start), 0, key);
    const feed = (h: Tensor): Tensor =>
      this.residual(h, this.mlp.forward(this.ln2.forward(h, this.mlp.fc.inputSite)), 1, key);
    // A scope each, so that what no op saved is freed before the next half begins.
    const h = scope(() => (recompute === 'attention' ? checkpoint(x, attend) : attend(x)));
    return scope(() => (recompute === 'mlp' ? checkpoint(h, feed) : feed(h)));
  }

  private residual(x: Tensor, y: Tensor, which: 0 | 1, key: number): Tensor {
    if (this.rate === 0 || !isTraining()) return add(x, y);
    return dropoutAdd(y, x, { rate: this.rate, seed: this.seed, stream: this.streams[which], offset: key * y.size });
  }
}

/** The whole model, or the part of it that one place of a pipeline holds. */
export class Gpt extends Module {
  readonly config: GptConfig;
  readonly part: GptPart;
  /** Of the first part. */
  readonly wte: Parameter | null;
  readonly wpe: Parameter | null;
  /** This part's layers. */
  readonly layers: Block[] = [];
  /** Of the last part. */
  readonly lnf: LayerNorm | RmsNorm | null;
  readonly head: Parameter | null;
  readonly context: ModelContext;
  private readonly act: ActDType;

  /** @throws UserError if the config breaks a rule */
  constructor(context: ModelContext, config: GptConfig, part: GptPart = wholeModel(config)) {
    super();
    const c = checkConfig(config);
    this.config = c;
    this.part = part;
    this.context = context;
    this.act = context.recipe.act;
    const table = (name: string, rows: number, tied: 'first' | 'last' | null = null): Parameter =>
      new Parameter(context, name, [rows, c.hiddenSize], 'embedding', { std: 0.02 }, { tied });
    this.wte = part.first ? table('wte.weight', c.vocabSize, c.tied && !part.last ? 'first' : null) : null;
    this.wpe = part.first && c.position === 'learned' ? table('wpe.weight', c.maxSeqLen) : null;
    const [begin, end] = part.layers;
    for (let i = begin; i < end; i++) this.layers.push(new Block(context, `h.${i}`, c));
    this.lnf = part.last ? makeNorm(context, 'lnf', c) : null;
    this.head = part.last ? this.makeHead(table) : null;
  }

  /** A tied head is the embedding; where that lies on another rank, a copy of it that both ranks keep equal. */
  private makeHead(table: (name: string, rows: number, tied?: 'last') => Parameter): Parameter {
    const { tied, vocabSize } = this.config;
    if (!tied) return table('head.weight', vocabSize);
    return this.wte ?? table('wte.weight', vocabSize, 'last');
  }

  /**
   * Mean cross-entropy of the next token, in nats.
   * @param tokens, targets i32 [T, B]; a negative target is ignored
   * @param numTargets how many targets are not negative
   * @returns f32 [1]
   */
  loss(tokens: Tensor, targets: Tensor, numTargets: number, options: ForwardOptions & HeadLossOptions = {}): Tensor {
    return this.forwardPart(tokens, { targets, numTargets }, options);
  }

  /**
   * This part's forward.
   * @param x tokens i32 [T, B] for the first part, else hidden states [T, B, C]
   * @param answers for the last part
   * @returns the loss, f32 [1], of the last part; else hidden states [T, B, C]
   */
  forwardPart(x: Tensor, answers: Targets | null, options: ForwardOptions & HeadLossOptions = {}): Tensor {
    const h = this.hidden(this.wte ? this.embed(x, options.dropoutKey ?? 0) : x, options);
    if (!this.lnf || !this.head) return h;
    if (!answers) throw new Error('internal: the last part of a model needs targets');
    return headLoss(this.lnf.forward(h), this.head, answers.targets, answers.numTargets, options);
  }

  private embed(tokens: Tensor, dropoutKey: number): Tensor {
    const [seq] = tokens.shape;
    if (seq > this.config.maxSeqLen) {
      throw new RangeError(`gpt: a sequence of ${seq} tokens exceeds maxSeqLen ${this.config.maxSeqLen}`);
    }
    const x = embedding(tokens, this.wte as Parameter, this.wpe, this.act);
    const { dropout: rate } = this.config;
    if (rate === 0 || !isTraining()) return x;
    return dropout(x, {
      rate,
      seed: this.context.seed,
      stream: hashName('embed.dropout'),
      offset: dropoutKey * x.size,
    });
  }

  /** Hidden states [T, B, C] after this part's layers. */
  private hidden(x: Tensor, { dropoutKey = 0, recompute = false }: ForwardOptions): Tensor {
    const how = recompute === true ? 'full' : recompute || null;
    let h = x;
    for (const layer of this.layers) h = layer.forward(h, dropoutKey, isTraining() ? how : null);
    return h;
  }

  /** Empty key and value caches for `batch` sequences of up to `maxSeq` tokens; the caller releases them. */
  makeCaches(batch: number, maxSeq: number): KvCache[] {
    const { backend } = this.context;
    const width = (this.config.hiddenSize / this.config.numHeads) * this.config.numKvHeads;
    const make = (): Tensor => persist(() => empty(backend, [maxSeq, batch, width], this.act));
    return this.layers.map(() => ({ keys: make(), values: make() }));
  }

  /**
   * Logits of the last of `tokens`, for generation.
   * @param tokens i32 [T, B] at positions start..start + T
   * @param caches take in the keys and values of these tokens
   * @returns [B, V] in the activation dtype
   */
  logits(tokens: Tensor, caches: KvCache[], start: number): Tensor {
    const [seq, batch] = tokens.shape;
    if (!this.wte || !this.lnf || !this.head) throw new Error('internal: logits need the whole model');
    let x = embedding(tokens, this.wte, this.wpe, this.act, start);
    this.layers.forEach((layer, i) => {
      x = layer.forwardCached(x, caches[i], start);
    });
    const last = this.lnf.forward(x.slice(seq - 1, seq));
    const [vocab, dim] = this.head.shape;
    const y = empty(last.backend, [batch, vocab], this.act);
    last.backend.kernels.gemm({
      c: y,
      a: last,
      b: this.head.data,
      m: batch,
      n: vocab,
      k: dim,
      trans_a: 0,
      trans_b: 1,
      accumulate: 0,
      compute_f32: this.act === 'f32' ? 1 : 0,
      alpha: 1,
    });
    return y;
  }
}

/** Number of parameters, each once. */
export const countParameters = (model: Module): number => model.parameters().reduce((sum, p) => sum + p.size, 0);
