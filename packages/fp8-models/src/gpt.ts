// A decoder-only transformer, sequence first: activations are [T, B, C].
//
//   x  = embed(tokens) (+ positions)
//   x += attn.proj(attention(attn.qkv(ln1(x))))         per layer
//   x += mlp.proj(gelu(mlp.fc(ln2(x))))
//   loss = crossEntropy(lnf(x) head^T)
//
// Each producer (norm, GELU, SwiGLU) casts at the site of the linear layer that reads it, so FP8 costs no pass of its own.
//
// The same code runs on one rank and on many. On a tensor group, qkv and fc are cut by outputs (each rank has whole heads), the
// two proj by inputs, the embedding and the head by vocabulary. With sequence parallelism, what lies between is [T / tp, B, C]:
// norms, dropout and the residual stream see a part of the sequence.
import {
  type ActDType,
  add,
  attention,
  attentionCached,
  checkpoint,
  dropout,
  dropoutAdd,
  empty,
  gelu,
  type Heads,
  type HeadLossOptions,
  hashName,
  isTraining,
  type KvCache,
  LayerNorm,
  type ModelContext,
  Module,
  type Parameter,
  persist,
  RmsNorm,
  rope,
  scope,
  swiglu,
  type Tensor,
  UserError,
} from 'fp8-core';
import {
  alone,
  ColumnParallelLinear,
  type Parallel,
  parallelHeadLoss,
  RowParallelLinear,
  VocabParallelEmbedding,
  vocabParallelTable,
} from 'fp8-dist';
import { checkConfig, checkTensorParallel, type GptConfig } from './config.ts';
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
  readonly qkv: ColumnParallelLinear;
  readonly proj: RowParallelLinear;
  /** This rank's. */
  private readonly heads: Heads;
  private readonly theta: number | null;

  constructor(context: ModelContext, name: string, c: GptConfig, parallel: Parallel) {
    super();
    const headDim = c.hiddenSize / c.numHeads;
    const { size } = parallel.mesh.tp;
    this.heads = { heads: c.numHeads / size, kvHeads: c.numKvHeads / size, headDim };
    this.theta = c.position === 'rope' ? c.ropeTheta : null;
    const parts = [c.numHeads, c.numKvHeads, c.numKvHeads].map((heads) => heads * headDim);
    const outDim = (c.numHeads + 2 * c.numKvHeads) * headDim;
    const options = { bias: c.bias, parts };
    this.qkv = new ColumnParallelLinear(context, `${name}.qkv`, c.hiddenSize, outDim, parallel, options);
    this.proj = new RowParallelLinear(context, `${name}.proj`, c.hiddenSize, c.hiddenSize, parallel, {
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
  readonly fc: ColumnParallelLinear;
  readonly proj: RowParallelLinear;
  private readonly gated: boolean;

  constructor(context: ModelContext, name: string, c: GptConfig, parallel: Parallel) {
    super();
    this.gated = c.activation === 'swiglu';
    const fcName = `${name}.${this.gated ? 'gate_up' : 'fc'}`;
    const parts = this.gated ? [c.ffnSize, c.ffnSize] : [c.ffnSize];
    const outDim = parts.length * c.ffnSize;
    this.fc = new ColumnParallelLinear(context, fcName, c.hiddenSize, outDim, parallel, { bias: c.bias, parts });
    const options = { bias: c.bias, init: residualInit(c) };
    this.proj = new RowParallelLinear(context, `${name}.proj`, c.ffnSize, c.hiddenSize, parallel, options);
  }

  forward(x: Tensor): Tensor {
    const h = this.fc.forward(x);
    return this.proj.forward((this.gated ? swiglu : gelu)(h, this.proj.inputSite));
  }
}

/** GPT-2: the projections into the residual stream start smaller, so that its variance does not grow with depth. */
const residualInit = (c: GptConfig) => ({ std: 0.02 / Math.sqrt(2 * c.numLayers) });

/** Norms see a part of the sequence under sequence parallelism. */
function makeNorm(context: ModelContext, name: string, c: GptConfig, parallel: Parallel): LayerNorm | RmsNorm {
  const options = { eps: c.normEps, sumGrad: cutsSequence(parallel) };
  return c.norm === 'rms'
    ? new RmsNorm(context, name, c.hiddenSize, options)
    : new LayerNorm(context, name, c.hiddenSize, { bias: c.bias, ...options });
}

const cutsSequence = ({ mesh, sequenceParallel }: Parallel): boolean => sequenceParallel && mesh.tp.size > 1;

/**
 * Index, in its random stream, of the first element of activation `x`: an element's dropout is a function of its place in the
 * whole activation, so every layout drops the same ones.
 */
function dropoutOffset(x: Tensor, key: number, parallel: Parallel): number {
  const { size, rank } = parallel.mesh.tp;
  return cutsSequence(parallel) ? (key * size + rank) * x.size : key * x.size;
}

class Block extends Module {
  readonly ln1: LayerNorm | RmsNorm;
  readonly attn: Attention;
  readonly ln2: LayerNorm | RmsNorm;
  readonly mlp: Mlp;
  private readonly rate: number;
  private readonly streams: [number, number];
  private readonly seed: number;
  private readonly parallel: Parallel;

  constructor(context: ModelContext, name: string, c: GptConfig, parallel: Parallel) {
    super();
    this.ln1 = makeNorm(context, `${name}.ln1`, c, parallel);
    this.attn = new Attention(context, `${name}.attn`, c, parallel);
    this.ln2 = makeNorm(context, `${name}.ln2`, c, parallel);
    this.mlp = new Mlp(context, `${name}.mlp`, c, parallel);
    this.parallel = parallel;
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
    const offset = dropoutOffset(y, key, this.parallel);
    return dropoutAdd(y, x, { rate: this.rate, seed: this.seed, stream: this.streams[which], offset });
  }
}

/** The whole model, or the part of it that one place of a pipeline holds. */
export class Gpt extends Module {
  readonly config: GptConfig;
  readonly part: GptPart;
  readonly parallel: Parallel;
  /** Of the first part. */
  private readonly tokens: VocabParallelEmbedding | null;
  /** This part's layers. */
  readonly layers: Block[] = [];
  /** Of the last part. */
  readonly lnf: LayerNorm | RmsNorm | null;
  readonly head: Parameter | null;
  readonly context: ModelContext;
  private readonly act: ActDType;

  /**
   * @param part what a place of a pipeline holds; everything by default
   * @param parallel the mesh and whether the sequence is cut; one rank by default
   * @throws UserError if the config breaks a rule or does not divide among the ranks
   */
  constructor(context: ModelContext, config: GptConfig, part: GptPart = wholeModel(config), parallel = alone()) {
    super();
    const c = checkConfig(config);
    checkTensorParallel(c, parallel.mesh.tp.size);
    this.config = c;
    this.part = part;
    this.parallel = parallel;
    this.context = context;
    this.act = context.recipe.act;
    this.tokens = part.first ? this.makeEmbedding() : null;
    const [begin, end] = part.layers;
    for (let i = begin; i < end; i++) this.layers.push(new Block(context, `h.${i}`, c, parallel));
    this.lnf = part.last ? makeNorm(context, 'lnf', c, parallel) : null;
    this.head = part.last ? this.makeHead() : null;
  }

  /** Of the first part. */
  get wte(): Parameter | null {
    return this.tokens?.weight ?? null;
  }

  get wpe(): Parameter | null {
    return this.tokens?.positions ?? null;
  }

  private makeEmbedding(): VocabParallelEmbedding {
    const { context, config: c, part, parallel } = this;
    return new VocabParallelEmbedding(context, 'wte', c.vocabSize, c.hiddenSize, parallel, {
      numPositions: c.position === 'learned' ? c.maxSeqLen : 0,
      positionsName: 'wpe.weight',
      tied: c.tied && !part.last ? 'first' : null,
    });
  }

  /** A tied head is the embedding; where that lies on another rank, a copy of it that both ranks keep equal. */
  private makeHead(): Parameter {
    const { context, parallel } = this;
    const { tied, vocabSize, hiddenSize } = this.config;
    if (!tied) return vocabParallelTable(context, 'head.weight', vocabSize, hiddenSize, parallel);
    return this.wte ?? vocabParallelTable(context, 'wte.weight', vocabSize, hiddenSize, parallel, { tied: 'last' });
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
   * @param x tokens i32 [T, B] for the first part, else hidden states [T, B, C]; [T / tp, B, C] under sequence parallelism
   * @param answers for the last part
   * @returns the loss, f32 [1], of the last part; else hidden states like x
   */
  forwardPart(x: Tensor, answers: Targets | null, options: ForwardOptions & HeadLossOptions = {}): Tensor {
    const h = this.hidden(this.tokens ? this.embed(this.tokens, x, options.dropoutKey ?? 0) : x, options);
    if (!this.lnf || !this.head) return h;
    if (!answers) throw new Error('internal: the last part of a model needs targets');
    return parallelHeadLoss(
      this.lnf.forward(h),
      this.head,
      answers.targets,
      answers.numTargets,
      this.parallel,
      options,
    );
  }

  private embed(table: VocabParallelEmbedding, tokens: Tensor, dropoutKey: number): Tensor {
    const [seq] = tokens.shape;
    const { size } = this.parallel.mesh.tp;
    if (cutsSequence(this.parallel) && seq % size) {
      throw new UserError(
        `sequence parallelism: a sequence of ${seq} tokens is not a multiple of tensor parallel size ${size}`,
      );
    }
    if (seq > this.config.maxSeqLen) {
      throw new RangeError(`gpt: a sequence of ${seq} tokens exceeds maxSeqLen ${this.config.maxSeqLen}`);
    }
    const x = table.forward(tokens);
    const { dropout: rate } = this.config;
    if (rate === 0 || !isTraining()) return x;
    return dropout(x, {
      rate,
      seed: this.context.seed,
      stream: hashName('embed.dropout'),
      offset: dropoutOffset(x, dropoutKey, this.parallel),
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
    if (!this.tokens || !this.lnf || !this.head || this.parallel.mesh.tp.size > 1)
      throw new Error('internal: logits need the whole model on one rank');
    let x = this.tokens.forward(tokens, start);
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
