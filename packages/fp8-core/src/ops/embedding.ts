import type { ActDType } from '../dtype.ts';
import type { Parameter } from '../parameter.ts';
import { defineOp } from '../tape.ts';
import { empty, type Tensor } from '../tensor.ts';

interface Where {
  rows: number;
  dim: number;
  vocab: number;
  vocab_start: number;
  batch: number;
  position: number;
  max_seq: number;
}

/**
 * Rows of `table` by token, plus learned positions. With a shard of the vocabulary, the row of a token of another rank is zero:
 * the sum over the ranks is the embedding.
 * @param tokens i32 [T, B]
 * @param table [V, C]
 * @param positions [maxSeq, C] or null
 * @param position position of the first row, for generation
 * @returns [T, B, C] in `act`
 */
export const embedding = defineOp({
  name: 'embedding',
  forward(context, tokens: Tensor, table: Parameter, positions: Parameter | null, act: ActDType, position: number = 0) {
    const [seq, batch] = tokens.shape;
    const maxSeq = positions?.shape[0] ?? 0;
    if (positions && position + seq > maxSeq) {
      throw new RangeError(
        `embedding: positions ${position}..${position + seq} exceed the ${maxSeq} that were learned`,
      );
    }
    const y = empty(table.backend, [seq, batch, table.shape[1]], act);
    const where: Where = {
      rows: seq * batch,
      dim: table.shape[1],
      vocab: table.shape[0],
      vocab_start: table.shard?.ranges[0][0] ?? 0,
      batch,
      position,
      max_seq: maxSeq,
    };
    table.backend.kernels.embedding_forward({ y, tokens, table: table.data, positions: positions?.data, ...where });
    context.save(tokens);
    context.state = { table, positions, where };
    return y;
  },
  backward(context, dy) {
    const { table, positions, where } = context.state as {
      table: Parameter;
      positions: Parameter | null;
      where: Where;
    };
    table.backend.kernels.embedding_backward({
      dtable: table.gradForAdding(),
      dpositions: positions?.gradForAdding(),
      tokens: context.saved[0],
      dy,
      ...where,
    });
    return [null];
  },
});
