// Megatron's conjugate pairs: what moves between the ranks of a tensor group in forward, and what in backward.
//
//   name                                    forward                backward
//   copyToTensorModelParallelRegion         -                      sum
//   reduceFromTensorModelParallelRegion     sum                    -
//   scatterToTensorModelParallelRegion      own last dim           gather last dim
//   gatherFromTensorModelParallelRegion     gather last dim        own last dim
//   scatterToSequenceParallelRegion         own rows               gather rows
//   gatherFromSequenceParallelRegion        gather rows            reduce-scatter rows
//   reduceScatterToSequenceParallelRegion   reduce-scatter rows    gather rows
//
// A group of one rank is no op at all: the tensor itself comes back. The parallel linear layers do not use these but fuse them,
// to let communication run under their products (layers/parallel_linear.ts).
// See Shoeybi et al. 2019 (arXiv:1909.08053) and Korthikanti et al. 2022 (arXiv:2205.05198).
import { defineOp, empty, type Tensor } from 'fp8-core';
import type { Group } from '../group.ts';
import { allReduceSum, gatherColumns, gatherRows, ownColumns, ownRows, reduceScatterRows } from './collect.ts';

type Move = (x: Tensor, group: Group) => Tensor;

/** The same bytes as another tensor, so that the tape tells them apart. */
const same: Move = (x) => x.reshape(...x.shape);

const sum: Move = (x, group) => {
  const y = empty(x.backend, x.shape, x.dtype);
  x.backend.copy(y.handle, x.handle);
  return allReduceSum(y, group).wait();
};

const gather: Move = (x, group) => gatherRows(x, group).wait();
const reduceScatter: Move = (x, group) => reduceScatterRows(x, group).wait();

function mapping(name: string, forward: Move, backward: Move): Move {
  const op = defineOp({
    name,
    forward(context, x: Tensor, group: Group) {
      context.state = group;
      return forward(x, group);
    },
    backward(context, dy) {
      return [backward(dy, context.state as Group)];
    },
  });
  return (x, group) => (group.size === 1 ? x : op(x, group));
}

/** x on every rank, entering a region where each computes a part: gradients are summed. */
export const copyToTensorModelParallelRegion = mapping('copyToTensorModelParallelRegion', same, sum);

/** The sum of the ranks' parts, on every rank. */
export const reduceFromTensorModelParallelRegion = mapping('reduceFromTensorModelParallelRegion', sum, same);

/** This rank's part of the last dim. [..., c] -> [..., c / n] */
export const scatterToTensorModelParallelRegion = mapping(
  'scatterToTensorModelParallelRegion',
  ownColumns,
  gatherColumns,
);

/** All ranks' parts of the last dim. [..., c / n] -> [..., c] */
export const gatherFromTensorModelParallelRegion = mapping(
  'gatherFromTensorModelParallelRegion',
  gatherColumns,
  ownColumns,
);

/** This rank's part of the sequence. [T, ...] -> [T / n, ...] */
export const scatterToSequenceParallelRegion = mapping('scatterToSequenceParallelRegion', ownRows, gather);

/** The whole sequence, entering a region where each rank computes a part: gradients are summed. [T / n, ...] -> [T, ...] */
const gatherToParts = mapping('gatherFromSequenceParallelRegion', gather, reduceScatter);

/** The whole sequence, entering a region where all ranks compute the same: gradients are cut. */
const gatherToCopies = mapping('gatherFromSequenceParallelRegion', gather, ownRows);

/**
 * The whole sequence. [T / n, ...] -> [T, ...]
 * @param tensorParallelOutputGrad whether the ranks' gradients are parts of a sum (default), or copies of the same
 */
export const gatherFromSequenceParallelRegion = (
  x: Tensor,
  group: Group,
  tensorParallelOutputGrad: boolean = true,
): Tensor => (tensorParallelOutputGrad ? gatherToParts : gatherToCopies)(x, group);

/** This rank's part of the sequence of the sum of the ranks' parts. [T, ...] -> [T / n, ...] */
export const reduceScatterToSequenceParallelRegion = mapping(
  'reduceScatterToSequenceParallelRegion',
  reduceScatter,
  gather,
);
