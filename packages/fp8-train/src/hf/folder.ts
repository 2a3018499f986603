// A Hugging Face model folder: config.json, and its tensors in one model.safetensors or in several that
// model.safetensors.index.json lists. What the files claim is checked before it is used: sizes by the safetensors reader, names of
// files here.
import { closeSync, existsSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from 'fp8-core';
import { openRegular } from '../files/atomic.ts';
import { isPlainFileName } from '../files/checkpoint_manifest.ts';
import { SafetensorsFile, type TensorInfo } from '../files/safetensors.ts';
import { MAX_HEADER_BYTES } from '../files/safetensors_header.ts';

const single = 'model.safetensors';
const indexName = 'model.safetensors.index.json';

/** The tensors of a folder under their own names. Close it. */
export class HfFolder {
  readonly path: string;
  private readonly opened: SafetensorsFile[] = [];
  private readonly holders = new Map<string, SafetensorsFile>();

  /** @throws UserError naming the file and what is wrong with it */
  constructor(path: string) {
    this.path = path;
    try {
      // The single file goes first where both are, as in transformers.
      if (existsSync(join(path, single))) this.open(single);
      else if (existsSync(join(path, indexName))) this.openShards();
      else throw noWeights(path);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  get names(): Iterable<string> {
    return this.holders.keys();
  }

  get numTensors(): number {
    return this.holders.size;
  }

  /** Undefined if there is no such tensor. */
  info(name: string): TensorInfo | undefined {
    return this.holders.get(name)?.tensors.get(name);
  }

  /** Reads a tensor's bytes into memory of their own, or into `target`. @throws UserError if there is none */
  read(name: string, target?: Uint8Array): Uint8Array {
    const file = this.holders.get(name);
    if (!file) throw new UserError(`${this.path} has no tensor ${name}`);
    return file.read(name, target);
  }

  close(): void {
    for (const file of this.opened) file.close();
  }

  private open(name: string): SafetensorsFile {
    const file = new SafetensorsFile(join(this.path, name));
    this.opened.push(file);
    if (name === single) for (const tensor of file.tensors.keys()) this.holders.set(tensor, file);
    return file;
  }

  private openShards(): void {
    const origin = join(this.path, indexName);
    const { weight_map: map } = readJsonFile(origin) as { weight_map?: unknown };
    if (typeof map !== 'object' || map === null || Array.isArray(map))
      throw new UserError(`${origin} has no "weight_map" from tensors to files`);
    const files = new Map<string, SafetensorsFile>();
    for (const [tensor, name] of Object.entries(map)) {
      if (typeof name !== 'string' || !isPlainFileName(name))
        throw new UserError(
          `${origin} puts ${printable(tensor)} into ${printable(String(name))}; only plain file names are allowed`,
        );
      const file = files.get(name) ?? this.open(name);
      files.set(name, file);
      if (!file.tensors.has(tensor))
        throw new UserError(`${origin} says that ${printable(tensor)} is in ${name}, which has no such tensor`);
      this.holders.set(tensor, file);
    }
  }
}

function noWeights(path: string): UserError {
  const pickled = ['pytorch_model.bin', 'pytorch_model.bin.index.json'].find((name) => existsSync(join(path, name)));
  const hint = pickled
    ? `; ${pickled} is a Python pickle, which is not read: save it with transformers' save_pretrained(…, safe_serialization=True)`
    : '';
  return new UserError(`${path} has neither ${single} nor ${indexName}${hint}`);
}

/** Reads a JSON file of at most 100 MB, links followed (model hubs link their files). @throws UserError naming it */
export function readJsonFile(path: string): unknown {
  const { fd, size } = openRegular(path, { followLinks: true });
  try {
    if (size > MAX_HEADER_BYTES) throw new UserError(`${path} has ${size} bytes; at most ${MAX_HEADER_BYTES} are read`);
    const bytes = Buffer.alloc(size);
    for (let done = 0; done < size; ) {
      const count = readSync(fd, bytes, done, size - done, done);
      if (count === 0) throw new UserError(`${path} became shorter while it was read`);
      done += count;
    }
    const value: unknown = JSON.parse(bytes.toString());
    if (typeof value !== 'object' || value === null) throw new UserError(`${path} holds no JSON object`);
    return value;
  } catch (error) {
    if (error instanceof SyntaxError) throw new UserError(`${path} is not valid JSON: ${printable(error.message)}`);
    throw error;
  } finally {
    closeSync(fd);
  }
}

/** Text from a file, as part of one line: short, without control characters. */
const printable = (text: string): string => JSON.stringify(text.slice(0, 160)).slice(1, -1).replaceAll('\\"', '"');
