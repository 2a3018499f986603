/** A small, seeded source of numbers in [0, 1). */
export function random(seed: number): () => number {
  let x = seed || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) / 2 ** 32;
  };
}

/** Type bytes of msgpack and limits of length fields: what decoders stumble over. */
const dictionary = [
  0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xc0, 0xc4, 0xc7, 0xc9, 0xcb, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xff,
];

/** A damaged copy: flipped bits, other bytes, cut, extended or spliced. */
export function mutate(good: Uint8Array, next: () => number): Buffer {
  let b = Buffer.from(good);
  const rounds = 1 + Math.floor(next() * 4);
  for (let i = 0; i < rounds; i++) {
    const at = Math.floor(next() * b.length);
    switch (Math.floor(next() * 6)) {
      case 0:
        if (b.length) b[at] ^= 1 << Math.floor(next() * 8);
        break;
      case 1:
        if (b.length) b[at] = dictionary[Math.floor(next() * dictionary.length)];
        break;
      case 2:
        b = b.subarray(0, at);
        break;
      case 3:
        b = Buffer.concat([b, Buffer.alloc(Math.floor(next() * 40), Math.floor(next() * 256))]);
        break;
      case 4:
        b = Buffer.concat([b.subarray(0, at), b.subarray(Math.floor(next() * b.length))]);
        break;
      default:
        if (at + 4 <= b.length) b.writeUInt32LE([0, 1, 0x7fffffff, 0xffffffff, b.length][Math.floor(next() * 5)], at);
    }
  }
  return b;
}
