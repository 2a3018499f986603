/**
 * GPT-2's byte-level alphabet: 256 printable characters that stand for the 256 bytes, so that a vocabulary of byte
 * strings can be written as JSON. Printable Latin-1 bytes stand for themselves; the other 68 take U+0100 upwards in
 * the order of their value (space is U+0120, `Ġ`).
 */
const isPrintable = (byte: number) =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);

/** Character of each byte. */
export const BYTE_TO_CHAR: readonly string[] = (() => {
  let spare = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : spare++));
})();

/** Byte of each character of the alphabet. */
export const CHAR_TO_BYTE: ReadonlyMap<string, number> = new Map(BYTE_TO_CHAR.map((char, byte) => [char, byte]));

/** Writes bytes in the alphabet. */
export const bytesToToken = (bytes: Uint8Array): string => {
  let token = '';
  for (const byte of bytes) token += BYTE_TO_CHAR[byte];
  return token;
};

/** The bytes a token of the alphabet stands for, or undefined if a character is not of the alphabet. */
export const tokenToBytes = (token: string): Uint8Array | undefined => {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = CHAR_TO_BYTE.get(token[i]);
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
};
