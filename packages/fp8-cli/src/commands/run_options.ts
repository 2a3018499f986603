// Options that describe a run, shared by `train` and `compare`. Defaults live in fp8-train's defaultRun; an option that was
// not given stays undefined, so that a run file keeps its say.
import { type Command, Option } from 'commander';
import { between, count, countOrZero, counts, zeroStage } from '../numbers.ts';

export interface RunOptions {
  init?: string;
  data?: string;
  tokenizer?: string;
  valFraction?: number;
  device?: 'auto' | 'cpu' | 'cuda' | 'ref';
  steps?: number;
  batch?: number;
  gradAccum?: number;
  seq?: number;
  lr?: number;
  schedule?: 'cosine' | 'wsd' | 'constant';
  warmup?: number;
  seed?: number;
  dropout?: number;
  recompute?: true | 'full' | 'attention' | 'mlp';
  evalEvery?: number;
  evalBatches?: number;
  out?: string;
  saveEvery?: number;
  keep?: number;
  set?: string[];
  json?: boolean;
  nproc?: number;
  tp?: number;
  pp?: number;
  virtual?: number;
  layout?: number[];
  fp8Pipeline?: boolean;
  dp?: number;
  sp?: boolean;
  payloads?: 'act' | 'paper' | 'all';
  zero?: 0 | 1 | 2 | true;
}

const collect = (text: string, earlier: string[] = []): string[] => [...earlier, text];

export function addRunOptions(command: Command): Command {
  return command
    .optionsGroup('Data:')
    .option('--data <path>', 'text file, folder, .jsonl with "text"; `builtin` or `random` (default: builtin)')
    .option(
      '--tokenizer <name>',
      'bpe (learned from the data, or that of --init), byte, or a folder with tokenizer.json (default: bpe)',
    )
    .option('--val-fraction <x>', 'share of the text held out (default: 0.05)', between(0, 1))
    .optionsGroup('Training:')
    .option(
      '--init <folder>',
      'start from the weights of a Hugging Face model, a run or a checkpoint (default: random)',
    )
    .addOption(
      new Option('--device <name>', 'where to compute (default: auto)').choices(['auto', 'cpu', 'cuda', 'ref']),
    )
    .option('--steps <n>', 'steps in total (default: 300)', count)
    .option('--batch <n>', 'sequences a micro-batch (default: 8)', count)
    .option('--grad-accum <n>', 'micro-batches a step (default: 1)', count)
    .option('--seq <n>', "tokens a sequence (default: the model's)", count)
    .option('--lr <x>', 'peak learning rate (default: 1e-3)', between(0))
    .addOption(
      new Option('--schedule <name>', 'learning rate over time (default: cosine)').choices([
        'cosine',
        'wsd',
        'constant',
      ]),
    )
    .option('--warmup <n>', 'steps of linear warm-up (default: 20)', countOrZero)
    .option('--seed <n>', 'weights, data order, dropout (default: 1337)', countOrZero)
    .option('--dropout <x>', "rate of dropout (default: the model's)", between(0, 1))
    .addOption(
      new Option(
        '--recompute [what]',
        'recompute activations in the backward pass: less memory, more time (default: full)',
      ).choices(['full', 'attention', 'mlp']),
    )
    .option('--set <key=value>', 'any field of the run, or model.FIELD (repeatable)', collect)
    .optionsGroup('Evaluation and output:')
    .option('--eval-every <n>', 'steps between evaluations; 0: at the end only (default: 100)', countOrZero)
    .option('--eval-batches <n>', 'micro-batches an evaluation (default: 8)', count)
    .option('--out <folder>', 'keep checkpoints, metrics.jsonl, config.json and report.html here')
    .option('--save-every <n>', 'steps between checkpoints; 0: at the end only (default: 0)', countOrZero)
    .option('--keep <n>', 'newest checkpoints to keep (default: 2)', count)
    .option('--json', 'one JSON object a line on stdout, nothing else')
    .optionsGroup('Parallelism:')
    .option('--nproc <n>', 'ranks to start on this machine (default: as many as the layout needs)', count)
    .option('--tp <n>', 'tensor-parallel ranks: each layer is cut over them', count)
    .option('--pp <n>', 'pipeline stages; --grad-accum says how many micro-batches fill them', count)
    .option('--virtual <n>', 'model chunks a stage, interleaved: less idle time, more messages (default: 1)', count)
    .option('--layout <counts>', 'layers of each stage (and chunk), for example 4,4,3,1 (default: balanced)', counts)
    .option('--fp8-pipeline', 'FP8 between stages: activations e4m3, their gradients e5m2')
    .option('--dp <n>', 'data-parallel ranks, each with its own micro-batches (default: all)', count)
    .option('--sp', 'sequence parallelism: norms and residuals on a part of the sequence, over the tp ranks')
    .addOption(
      new Option(
        '--payloads <set>',
        'what tp ranks send in FP8: nothing, layer inputs as in the paper, all (default: the recipe)',
      ).choices(['act', 'paper', 'all']),
    )
    .option(
      '--zero [stage]',
      'ZeRO: shard optimizer states over dp ranks; stage 2: gradients too (default stage: 1)',
      zeroStage,
    )
    .optionsGroup('Options:');
}
