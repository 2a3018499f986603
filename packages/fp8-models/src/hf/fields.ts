import { UserError } from 'fp8-core';

/** The fields of a config.json, each checked as it is read. A field that is missing or null has its family's default. */
export class HfFields {
  readonly origin: string;
  private readonly fields: Readonly<Record<string, unknown>>;

  /** @param origin named in messages */
  constructor(fields: Readonly<Record<string, unknown>>, origin: string) {
    this.fields = fields;
    this.origin = origin;
  }

  has(key: string): boolean {
    return Object.hasOwn(this.fields, key) && this.fields[key] !== null;
  }

  /** A whole number >= 1. @throws UserError; also where it is missing and has no default */
  count(key: string, missing?: number): number {
    const value = this.get(key, missing);
    if (!Number.isSafeInteger(value) || (value as number) < 1) this.refuse(key, 'need a whole number >= 1');
    return value as number;
  }

  /** A finite number above 0. @throws UserError */
  positive(key: string, missing?: number): number {
    const value = this.get(key, missing);
    if (typeof value !== 'number' || !(value > 0 && value < Infinity)) this.refuse(key, 'need a number above 0');
    return value as number;
  }

  flag(key: string, missing: boolean): boolean {
    const value = this.get(key, missing);
    if (typeof value !== 'boolean') this.refuse(key, 'need true or false');
    return value as boolean;
  }

  /** For what changes the computation: only these values are what fp8lm computes. @throws UserError */
  only(key: string, ...allowed: readonly (string | number | boolean | null)[]): void {
    const value = this.get(key, allowed[0]);
    if (!(allowed as readonly unknown[]).includes(value))
      this.refuse(key, `fp8lm computes ${allowed.map((v) => JSON.stringify(v)).join(' or ')} only`);
  }

  /** An object within, or null. */
  inner(key: string): HfFields | null {
    if (!this.has(key)) return null;
    const value = this.fields[key];
    if (typeof value !== 'object' || Array.isArray(value)) this.refuse(key, 'need an object');
    return new HfFields(value as Record<string, unknown>, `${this.origin}: ${key}`);
  }

  /** @throws UserError always */
  refuse(key: string, need: string): never {
    const value = this.has(key) ? short(this.fields[key]) : 'missing';
    throw new UserError(`${this.origin}: ${key} is ${value}; ${need}`);
  }

  private get(key: string, missing: unknown): unknown {
    return this.has(key) ? this.fields[key] : missing;
  }
}

/** Values come from a file: one short line, control characters escaped. */
function short(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}
