/** sums[c] += the sum of column c of x [rows, dim]; each column in float64, rounded twice (the sum, then the addition). */
export function addColumnSums(sums: Float32Array, x: Float32Array, rows: number, dim: number): void {
  for (let c = 0; c < dim; c++) {
    let s = 0;
    for (let r = 0; r < rows; r++) s += x[r * dim + c];
    sums[c] += s;
  }
}
