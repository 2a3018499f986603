/** Reading checkpoints back, with every byte checked against the manifest before it is used. */
import { closeSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from 'fp8-core';
import { openRegular } from './atomic.ts';
import { type FileRecord, readManifest } from './checkpoint_manifest.ts';
import { listCheckpoints } from './checkpoint.ts';
import { SafetensorsFile, sha256, type TensorInfo } from './safetensors.ts';

export interface ReadCheckpointOptions {
  /** Check every tensor now instead of when it is read. Default false. */
  verify?: boolean;
  /** When the newest checkpoint is damaged, tell why and try the one before (implies `verify`). */
  onDamaged?: (message: string) => void;
}

/** An open checkpoint: folder, sizes, JSON and headers are checked, tensors are checked as they are read. Close it. */
export interface Checkpoint {
  readonly path: string;
  readonly step: number;
  /** Content of each `KEY.json`, by KEY. */
  readonly json: Readonly<Record<string, unknown>>;
  /** Tensors of each safetensors file, by file name. */
  readonly files: ReadonlyMap<string, ReadonlyMap<string, TensorInfo>>;
  metadata(file: string): Readonly<Record<string, string>>;
  has(name: string, file?: string): boolean;
  /**
   * Reads a tensor and checks its sum. `file` is needed only where two files have a tensor of that name.
   * @throws UserError naming file and tensor if it is missing or damaged
   */
  tensor(name: string, file?: string): TensorInfo & { bytes: Uint8Array };
  close(): void;
}

/**
 * Opens a checkpoint.
 * @param dir a folder of checkpoints (the latest is taken) or one `step-N` folder
 * @throws UserError naming the file, and the tensor where one is damaged
 */
export function readCheckpoint(dir: string, options: ReadCheckpointOptions = {}): Checkpoint {
  const candidates = listCheckpoints(dir).map(({ path }) => path);
  if (candidates.length === 0) return open(dir, options);
  let first: unknown;
  for (const path of candidates) {
    try {
      return open(path, { verify: options.verify === true || options.onDamaged !== undefined });
    } catch (error) {
      if (options.onDamaged === undefined || !(error instanceof UserError)) throw error;
      first ??= error;
      options.onDamaged(error.message);
    }
  }
  throw first;
}

function open(dir: string, options: ReadCheckpointOptions): Checkpoint {
  const { step, files: records } = readManifest(dir);
  const opened = new Map<string, SafetensorsFile>();
  const close = () => {
    for (const file of opened.values()) file.close();
  };
  try {
    const named = /[/\\]step-(\d+)$/.exec(dir);
    if (named !== null && Number(named[1]) !== step)
      throw new UserError(`${dir} holds step ${step}; was it renamed or mixed up?`);
    for (const name of readdirSync(dir))
      if (name.endsWith('.safetensors') && !Object.hasOwn(records, name))
        throw new UserError(`${join(dir, name)} does not belong to this checkpoint; its manifest does not name it`);
    const json: Record<string, unknown> = Object.create(null);
    for (const [name, record] of Object.entries(records)) {
      if ('tensors' in record) opened.set(name, openTensors(join(dir, name), record));
      else json[name.replace(/\.json$/, '')] = parseJson(join(dir, name), record);
    }
    const checkpoint: Checkpoint = {
      path: dir,
      step,
      json,
      files: new Map([...opened].map(([name, file]) => [name, file.tensors])),
      metadata: (file) => (opened.get(file) ?? missing(`${dir} has no file ${file}`)).metadata,
      has: (name, file) =>
        (file === undefined ? [...opened.values()] : [opened.get(file)]).some((f) => f?.tensors.has(name)),
      tensor(name, file) {
        const holders = [...opened].filter(
          ([f, { tensors }]) => (file === undefined || f === file) && tensors.has(name),
        );
        if (holders.length === 0) missing(`${file === undefined ? dir : join(dir, file)} has no tensor ${name}`);
        if (holders.length > 1)
          missing(`${dir} has ${name} in ${holders.map(([f]) => f).join(' and ')}; name the file`);
        const [fileName, source] = holders[0];
        const { dtype, shape } = source.tensors.get(name)!;
        const bytes = source.read(name);
        checkSum(source.path, name, sha256(bytes), records[fileName]);
        return { dtype, shape: [...shape], bytes };
      },
      close,
    };
    if (options.verify === true)
      for (const [name, file] of opened)
        for (const tensor of file.tensors.keys()) checkSum(file.path, tensor, file.sum(tensor), records[name]);
    return checkpoint;
  } catch (error) {
    close();
    throw error;
  }
}

function openTensors(path: string, record: Extract<FileRecord, { tensors: unknown }>): SafetensorsFile {
  const file = new SafetensorsFile(path, { followLinks: false });
  try {
    if (file.size !== record.size)
      throw new UserError(
        `${path} has ${file.size} bytes, its manifest says ${record.size}; it is truncated or from another save`,
      );
    if (file.headerSum !== record.header)
      throw new UserError(`${path} is damaged: its header does not match its checksum`);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

function readChecked(path: string, record: Extract<FileRecord, { sha256: string }>): string {
  const { fd, size } = openRegular(path, { followLinks: false });
  try {
    if (size !== record.size)
      throw new UserError(
        `${path} has ${size} bytes, its manifest says ${record.size}; it is truncated or from another save`,
      );
    const bytes = Buffer.alloc(size);
    for (let done = 0; done < size; ) {
      const count = readSync(fd, bytes, done, size - done, done);
      if (count === 0) throw new UserError(`${path} became shorter while it was read`);
      done += count;
    }
    if (sha256(bytes) !== record.sha256) throw new UserError(`${path} is damaged: it does not match its checksum`);
    return bytes.toString();
  } finally {
    closeSync(fd);
  }
}

function parseJson(path: string, record: Extract<FileRecord, { sha256: string }>): unknown {
  const text = readChecked(path, record);
  try {
    return JSON.parse(text);
  } catch {
    throw new UserError(`${path} is not valid JSON`);
  }
}

function checkSum(path: string, tensor: string, actual: string, record: FileRecord): void {
  const expected = 'tensors' in record && Object.hasOwn(record.tensors, tensor) ? record.tensors[tensor] : undefined;
  if (actual !== expected)
    throw new UserError(`${path} is damaged: tensor ${tensor} does not match its checksum; use an earlier checkpoint`);
}

function missing(message: string): never {
  throw new UserError(message);
}
