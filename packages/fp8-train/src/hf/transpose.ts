/** Edge of a block: 32 rows of 32 elements of both sides stay in the first cache. */
const edge = 32;

/**
 * A matrix the other way round.
 * @param bytes [rows, columns] elements of `width` 2 or 4 bytes, aligned to it
 * @param target [columns, rows]; not the same memory
 */
export function transpose(bytes: Uint8Array, rows: number, columns: number, width: number, target: Uint8Array): void {
  if (bytes.length !== rows * columns * width || target.length !== bytes.length)
    throw new RangeError(`transpose: ${bytes.length} and ${target.length} bytes for [${rows}, ${columns}] of ${width}`);
  const [x, y] = [bytes, target].map((b) =>
    width === 4
      ? new Uint32Array(b.buffer, b.byteOffset, rows * columns)
      : new Uint16Array(b.buffer, b.byteOffset, rows * columns),
  );
  for (let r0 = 0; r0 < rows; r0 += edge) {
    const r1 = Math.min(rows, r0 + edge);
    for (let c0 = 0; c0 < columns; c0 += edge) {
      const c1 = Math.min(columns, c0 + edge);
      // Writes run on; the other way round takes twice the time.
      for (let c = c0; c < c1; c++) for (let r = r0; r < r1; r++) y[c * rows + r] = x[r * columns + c];
    }
  }
}
