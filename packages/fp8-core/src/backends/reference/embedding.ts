import type { EmbeddingBackwardArgs, EmbeddingForwardArgs } from '../../kernels.gen.ts';
import type { CellsOf } from '../check.ts';
import { f32Of, i32Of, load, storePlain } from './cells.ts';
import { checkFits, checkMultiple } from './limits.ts';

/** y[r] = table[token - vocab_start] + positions[position + r / batch]; a token of another rank's slice gives a zero row. */
export function embedding_forward(a: CellsOf<EmbeddingForwardArgs>): void {
  const { rows, dim, vocab, vocab_start, batch, position, max_seq } = a;
  checkMultiple('embedding_forward', 'rows', rows, 'batch', batch);
  if (a.positions) checkFits('embedding_forward', 'positions', position, rows / batch, max_seq);
  const tokens = i32Of(a.tokens);
  const table = load(a.table, vocab * dim);
  const positions = a.positions ? load(a.positions, max_seq * dim) : null;
  const y = new Float32Array(rows * dim);
  for (let r = 0; r < rows; r++) {
    const token = tokens[r] - vocab_start;
    if (token < 0 || token >= vocab) continue;
    const at = (position + Math.floor(r / batch)) * dim;
    y.set(table.subarray(token * dim, (token + 1) * dim), r * dim);
    if (positions) for (let c = 0; c < dim; c++) y[r * dim + c] += positions[at + c];
  }
  storePlain(a.y, y);
}

export function embedding_backward(a: CellsOf<EmbeddingBackwardArgs>): void {
  const { rows, dim, vocab, vocab_start, batch, position, max_seq } = a;
  checkMultiple('embedding_backward', 'rows', rows, 'batch', batch);
  if (a.dpositions) checkFits('embedding_backward', 'positions', position, rows / batch, max_seq);
  const tokens = i32Of(a.tokens);
  const dy = load(a.dy, rows * dim);
  const dTable = f32Of(a.dtable);
  const dPositions = a.dpositions ? f32Of(a.dpositions) : null;
  for (let r = 0; r < rows; r++) {
    const token = tokens[r] - vocab_start;
    if (token < 0 || token >= vocab) continue;
    const at = (position + Math.floor(r / batch)) * dim;
    for (let c = 0; c < dim; c++) {
      dTable[token * dim + c] += dy[r * dim + c];
      if (dPositions) dPositions[at + c] += dy[r * dim + c];
    }
  }
}
