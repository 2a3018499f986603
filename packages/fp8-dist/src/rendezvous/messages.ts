// What ranks tell the store and each other on the control sockets: msgpack maps with a strict list of fields, checked after
// decoding. Tensors never travel this way.
import { Packr, Unpackr } from 'msgpackr';
import { ProtocolError } from '../errors.ts';
import { scan } from './scan.ts';

const codec = { useRecords: false, structuredClone: false, moreTypes: false, int64AsType: 'number' as const };
const packr = new Packr(codec);
const unpackr = new Unpackr(codec);

/** Largest message of the store, in bytes. */
export const maxMessageBytes = 1 << 20;

export type FieldType = 'string' | 'int' | 'number' | 'string?' | 'int?' | 'ints' | 'strings';

/** Packs a message, or any plain value of `gatherObjects`. */
export const pack = (value: unknown): Buffer => packr.pack(value);

/** Unpacks any plain value. @throws ProtocolError if the bytes are no msgpack */
export function unpack(bytes: Uint8Array): unknown {
  try {
    return unpackr.unpack(bytes as Buffer);
  } catch (error) {
    throw new ProtocolError(`no msgpack: ${(error as Error).message.slice(0, 80)}`);
  }
}

const isInt = (v: unknown): boolean => Number.isSafeInteger(v);
const isText = (v: unknown): boolean => typeof v === 'string' && v.length <= 4096;
const checks: Record<FieldType, (v: unknown) => boolean> = {
  string: isText,
  int: isInt,
  number: (v) => typeof v === 'number',
  'string?': (v) => v === null || isText(v),
  'int?': (v) => v === null || isInt(v),
  ints: (v) => Array.isArray(v) && v.length <= 65536 && v.every(isInt),
  strings: (v) => Array.isArray(v) && v.length <= 65536 && v.every(isText),
};

/**
 * Unpacks a map that must have exactly these fields.
 * @throws ProtocolError naming the field that is missing, unknown or of another type
 */
export function unpackMessage(bytes: Uint8Array, fields: Record<string, FieldType>): Record<string, unknown> {
  if (bytes.length > maxMessageBytes) throw new ProtocolError(`a message of ${bytes.length} bytes`);
  scan(bytes);
  return checkFields(unpack(bytes), fields);
}

/** @throws ProtocolError if `value` is no map of exactly these fields */
export function checkFields(value: unknown, fields: Record<string, FieldType>): Record<string, unknown> {
  if (value === null || typeof value !== 'object' || Object.getPrototypeOf(value) !== Object.prototype) {
    throw new ProtocolError('a message that is no map');
  }
  const map = value as Record<string, unknown>;
  for (const name of Object.keys(map))
    if (!Object.hasOwn(fields, name)) throw new ProtocolError(`unknown field ${name.slice(0, 40)}`);
  for (const [name, type] of Object.entries(fields)) {
    if (!Object.hasOwn(map, name) || !checks[type](map[name])) throw new ProtocolError(`field ${name} is no ${type}`);
  }
  return map;
}
