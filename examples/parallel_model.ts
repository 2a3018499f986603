// A model of one's own from parallel layers: an embedding, residual MLP blocks, a tied head. It predicts the next token from
// the present one alone. The class knows nothing of how many ranks there are; the mesh that it is given does.
//
//   npx fp8lm launch --nproc 4 -- npx tsx -C source examples/parallel_model.ts
import { add, gelu, LayerNorm, type ModelContext, Module, modelContext, recipeNamed, type Tensor } from 'fp8-core';
import {
  ColumnParallelLinear,
  DataParallel,
  init,
  initializeModelParallel,
  type Parallel,
  parallelHeadLoss,
  RowParallelLinear,
  VocabParallelEmbedding,
} from 'fp8-dist';
import { AdamW } from 'fp8-optim';
import { backendFor, type LossOptions, memoryTokens, Sampler, Trainer } from 'fp8-train';

const vocabSize = 50;
const dim = 32;
const numBlocks = 2;

class Block extends Module {
  readonly norm: LayerNorm;
  readonly up: ColumnParallelLinear;
  readonly down: RowParallelLinear;

  constructor(context: ModelContext, name: string, parallel: Parallel) {
    super();
    // Between the parallel layers each rank has a part of the sequence, so a norm's gradient is a part too.
    this.norm = new LayerNorm(context, `${name}.norm`, dim, { sumGrad: parallel.sequenceParallel });
    this.up = new ColumnParallelLinear(context, `${name}.up`, dim, 4 * dim, parallel);
    this.down = new RowParallelLinear(context, `${name}.down`, 4 * dim, dim, parallel);
  }

  forward(x: Tensor): Tensor {
    const h = this.up.forward(this.norm.forward(x, this.up.inputSite));
    return add(x, this.down.forward(gelu(h, this.down.inputSite)));
  }
}

class BigramModel extends Module {
  readonly context: ModelContext;
  readonly tokens: VocabParallelEmbedding;
  readonly blocks: Block[];
  private readonly parallel: Parallel;

  constructor(context: ModelContext, parallel: Parallel) {
    super();
    this.context = context;
    this.parallel = parallel;
    this.tokens = new VocabParallelEmbedding(context, 'tokens', vocabSize, dim, parallel);
    this.blocks = Array.from({ length: numBlocks }, (_, i) => new Block(context, `block.${i}`, parallel));
  }

  loss(tokens: Tensor, targets: Tensor, numTargets: number, options: LossOptions = {}): Tensor {
    const h = this.blocks.reduce((x, block) => block.forward(x), this.tokens.forward(tokens));
    return parallelHeadLoss(h, this.tokens.weight, targets, numTargets, this.parallel, options);
  }
}

/** Each token has one successor, three times itself and seven on, so the loss can fall to almost nothing. */
const chain = new Int32Array(20_000);
for (let i = 1; i < chain.length; i++) chain[i] = (3 * chain[i - 1] + 7) % vocabSize;

const comm = await init();
const tensor = comm.size % 2 === 0 ? 2 : 1;
const mesh = initializeModelParallel(comm, { tensor }); // dp is what is left
const model = new BigramModel(modelContext(backendFor('auto'), recipeNamed('o3'), 1), {
  mesh,
  sequenceParallel: tensor > 1,
});
const parallel = new DataParallel(model.parameters(), mesh);
const optimizer = new AdamW(model.parameters(), {}, parallel);
const trainer = new Trainer(model, optimizer, { batch: 4, seq: 32 }, parallel);
const sampler = new Sampler(memoryTokens(chain, vocabSize), {
  seqLen: 32,
  seed: 1,
  rank: mesh.dp.rank,
  worldSize: mesh.dp.size,
});

const numSteps = 40;
for (let step = 1; step <= numSteps; step++) {
  const { loss } = trainer.step(() => sampler.nextBatch(4), 3e-3);
  if (comm.rank === 0 && (step === 1 || step % 20 === 0))
    console.log(`${mesh.describe()}, step ${step}: loss ${loss.toFixed(3)}`);
}
await comm.close();
