import * as zlib from 'node:zlib';

const table = new Uint32Array(256).map((_, i) => {
  let c = i;
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1;
  return c;
});

function crc32InTypeScript(bytes: Uint8Array, start = 0): number {
  let c = ~start;
  for (let i = 0; i < bytes.length; i++) c = table[(c ^ bytes[i]) & 255] ^ (c >>> 8);
  return ~c >>> 0;
}

/** CRC-32 of the bytes, going on from `start`; native where Node has it (20.15 and later). */
export const crc32: (bytes: Uint8Array, start?: number) => number =
  (zlib as unknown as { crc32?: (bytes: Uint8Array, start?: number) => number }).crc32 ?? crc32InTypeScript;
