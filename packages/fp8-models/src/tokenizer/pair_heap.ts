/** Binary heap of (count, key): `pop` gives the largest count, among equals the smallest key. */
export class PairHeap {
  #counts: number[] = [];
  #keys: number[] = [];

  get size(): number {
    return this.#keys.length;
  }

  push(count: number, key: number): void {
    let i = this.#keys.length;
    this.#counts.push(count);
    this.#keys.push(key);
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!this.#isBefore(count, key, parent)) break;
      this.#move(parent, i);
      i = parent;
    }
    this.#counts[i] = count;
    this.#keys[i] = key;
  }

  /** Must not be called on an empty heap. */
  pop(): { count: number; key: number } {
    const top = { count: this.#counts[0], key: this.#keys[0] };
    const count = this.#counts.pop()!;
    const key = this.#keys.pop()!;
    const length = this.#keys.length;
    if (length === 0) return top;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= length) break;
      if (child + 1 < length && this.#isBefore(this.#counts[child + 1], this.#keys[child + 1], child)) child++;
      if (this.#isBefore(count, key, child)) break;
      this.#move(child, i);
      i = child;
    }
    this.#counts[i] = count;
    this.#keys[i] = key;
    return top;
  }

  #isBefore(count: number, key: number, j: number): boolean {
    return count > this.#counts[j] || (count === this.#counts[j] && key < this.#keys[j]);
  }

  #move(from: number, to: number): void {
    this.#counts[to] = this.#counts[from];
    this.#keys[to] = this.#keys[from];
  }
}
