// Looks over a msgpack message before it is decoded: a few bytes can announce more values than memory holds, and an empty map costs
// one byte on the wire and 56 in memory. What passes costs at most four times its bytes and half a MiB.
import { ProtocolError } from '../errors.ts';

const maxDepth = 16;
/** Values that any message may hold, and how many bytes each further one must take. */
const freeValues = 8192;
const bytesPerValue = 16;

/** Bytes of the value behind its type byte, by type byte from 0xc0 on; negative: a length field of so many bytes. */
const sizes = [
  0, 0, 0, 0, -1, -2, -4, -1, -2, -4, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17, -1, -2, -4, -2, -4, -2, -4,
];

/** @throws ProtocolError if the message is no msgpack, is cut off, nests too deep, or holds too many values for its length */
export function scan(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const most = freeValues + bytes.length / bytesPerValue;
  /** Values still to come at each depth. */
  const left = [1];
  let values = 0;
  let at = 0;
  const take = (n: number): number => {
    const begin = at;
    at += n;
    if (at > bytes.length) throw new ProtocolError(`a message cut off after ${bytes.length} bytes`);
    return begin;
  };
  const length = (n: number): number => {
    const begin = take(n);
    return n === 1 ? view.getUint8(begin) : n === 2 ? view.getUint16(begin) : view.getUint32(begin);
  };
  while (left.length) {
    if (left[left.length - 1]-- === 0) {
      left.pop();
      continue;
    }
    if (++values > most)
      throw new ProtocolError(`a message of ${bytes.length} bytes with more than ${Math.floor(most)} values`);
    const type = bytes[take(1)];
    let inside = 0;
    if (type < 0x80 || type >= 0xe0) continue;
    if (type < 0x90) inside = 2 * (type & 15);
    else if (type < 0xa0) inside = type & 15;
    else if (type < 0xc0) take(type & 31);
    else if (type >= 0xdc) inside = length(type & 1 ? 4 : 2) * (type >= 0xde ? 2 : 1);
    else {
      const size = sizes[type - 0xc0];
      // Extensions have a type byte of their own behind the length.
      const extra = type >= 0xc7 && type <= 0xc9 ? 1 : 0;
      take(size < 0 ? length(-size) + extra : size);
    }
    if (inside > most) throw new ProtocolError(`a message of ${bytes.length} bytes that announces ${inside} values`);
    if (inside > 0) left.push(inside);
    if (left.length > maxDepth) throw new ProtocolError(`a message nested deeper than ${maxDepth}`);
  }
  if (at !== bytes.length) throw new ProtocolError(`${bytes.length - at} bytes behind a message`);
}
