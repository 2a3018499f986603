import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { userError } from '../../test/user_error.ts';
import { latestCheckpoint, listCheckpoints, writeCheckpoint } from './checkpoint.ts';
import { formatManifest } from './checkpoint_manifest.ts';
import { readCheckpoint } from './read_checkpoint.ts';
import { sha256, type TensorSource } from './safetensors.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'checkpoint-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const bytesOf = (length: number, seed: number) => Uint8Array.from({ length }, (_, i) => (i * 37 + seed * 101) & 0xff);

/** State of a run at a step: different at each. */
const stateAt = (step: number, scale = 1) => {
  const weights: TensorSource[] = [
    { name: 'h.0.w', dtype: 'F8_E4M3', shape: [16 * scale, 8], bytes: () => bytesOf(128 * scale, step) },
    { name: 'h.0.w.scale', dtype: 'F32', shape: [1], bytes: () => bytesOf(4, step + 1) },
  ];
  const moments: TensorSource[] = [
    { name: 'h.0.w', dtype: 'F16', shape: [8, 16], bytes: () => bytesOf(256, step + 2) },
  ];
  return [
    { name: 'model.safetensors', tensors: weights, metadata: { format: 'pt' } },
    { name: 'optimizer.safetensors', tensors: moments },
  ];
};
const save = (step: number, keep?: number) =>
  writeCheckpoint(
    dir,
    step,
    stateAt(step),
    { config: { hiddenSize: 64 }, trainer: { step, position: { epoch: 1, index: 7 } } },
    { keep },
  );

describe('a checkpoint', () => {
  it('reads back tensors, metadata and JSON', () => {
    const { path, numBytes } = save(120);
    expect(path).toBe(join(dir, 'step-120'));
    expect(numBytes).toBe(readdirSync(path).reduce((sum, name) => sum + readFileSync(join(path, name)).length, 0));
    for (const from of [dir, path]) {
      const read = readCheckpoint(from);
      expect(read.step).toBe(120);
      expect(read.json).toEqual({
        config: { hiddenSize: 64 },
        trainer: { step: 120, position: { epoch: 1, index: 7 } },
      });
      expect([...read.files.keys()]).toEqual(['model.safetensors', 'optimizer.safetensors']);
      expect(read.metadata('model.safetensors').format).toBe('pt');
      expect(read.tensor('h.0.w.scale')).toEqual({ dtype: 'F32', shape: [1], bytes: bytesOf(4, 121) });
      expect(read.tensor('h.0.w', 'optimizer.safetensors').bytes).toEqual(bytesOf(256, 122));
      expect(userError(() => read.tensor('h.0.w'))).toMatch(
        /in model\.safetensors and optimizer\.safetensors; name the file/,
      );
      expect(userError(() => read.tensor('h.9.w'))).toMatch(/has no tensor h\.9\.w/);
      expect([read.has('h.0.w'), read.has('h.0.w.scale', 'optimizer.safetensors')]).toEqual([true, false]);
      read.close();
    }
  });

  it('becomes the latest, and only the last K are kept', () => {
    for (const step of [1, 2, 3, 4, 5]) save(step, 2);
    expect(readdirSync(dir).sort()).toEqual(['latest', 'step-4', 'step-5']);
    expect(readFileSync(join(dir, 'latest'), 'utf8')).toBe('step-5\n');
    expect(latestCheckpoint(dir)).toEqual({ step: 5, path: join(dir, 'step-5') });
    expect(latestCheckpoint(join(dir, 'nowhere'))).toBeUndefined();
    expect(userError(() => readCheckpoint(join(dir, 'nowhere')))).toMatch(/does not exist/);
  });

  it('is replaced when the same step is saved again', () => {
    save(7);
    writeCheckpoint(dir, 7, stateAt(8), { trainer: { again: true } });
    expect(readdirSync(dir).sort()).toEqual(['latest', 'step-7']);
    expect(readCheckpoint(dir).json).toEqual({ trainer: { again: true } });
  });

  it('is the latest after a resume from an earlier step, and the abandoned branch goes first', () => {
    for (const step of [10, 20, 30]) save(step);
    save(15);
    expect(latestCheckpoint(dir)?.step).toBe(15);
    expect(listCheckpoints(dir)).toHaveLength(3);
    expect(existsSync(join(dir, 'step-10'))).toBe(false);
  });

  it('removes what dead writers left and puts back a displaced checkpoint', () => {
    save(1);
    save(2);
    const dead = spawnSync(process.execPath, ['-e', '']).pid;
    mkdirSync(join(dir, `step-3.tmp-${dead}`));
    writeFileSync(join(dir, `latest.tmp-${dead}`), 'x');
    mkdirSync(join(dir, `step-9.tmp-${process.ppid}`)); // its writer lives
    writeFileSync(join(dir, 'notes.tmp-1'), 'not ours');
    cpSync(join(dir, 'step-2'), join(dir, `step-2.old-${dead}`), { recursive: true });
    rmSync(join(dir, 'step-2'), { recursive: true });
    expect(latestCheckpoint(dir)?.step).toBe(2);
    save(4);
    expect(readdirSync(dir).sort()).toEqual(
      ['latest', 'notes.tmp-1', 'step-1', 'step-2', 'step-4', `step-9.tmp-${process.ppid}`].sort(),
    );
  });

  it('survives a lost or broken pointer', () => {
    save(1);
    save(2);
    for (const content of ['', 'step-99\n', '../../etc\n', '\0']) {
      writeFileSync(join(dir, 'latest'), content);
      expect(latestCheckpoint(dir)?.step).toBe(2);
    }
    rmSync(join(dir, 'latest'));
    expect(latestCheckpoint(dir)?.step).toBe(2);
  });

  it('refuses evil file names, non-finite JSON, and leaves nothing behind', () => {
    save(1);
    for (const name of [
      '../x',
      '/etc/x',
      'a/b',
      '',
      '.hidden',
      'a..b',
      'a\0',
      '__proto__',
      'manifest.json',
      'a\\b',
      'x'.repeat(300),
    ])
      expect(() => writeCheckpoint(dir, 2, [{ name, tensors: [] }], {}), name).toThrow(RangeError);
    expect(() => writeCheckpoint(dir, 2, [], { 'a/b': 1 })).toThrow(RangeError);
    expect(() => writeCheckpoint(dir, 2, [], { trainer: { scale: NaN } })).toThrow(/hold NaN at "scale"/);
    expect(() => writeCheckpoint(dir, 2, [], { t: { w: new Float32Array(2) } })).toThrow(/store it as a tensor/);
    expect(() => writeCheckpoint(dir, -1, [], {})).toThrow(RangeError);
    expect(readdirSync(dir).sort()).toEqual(['latest', 'step-1']);
  });
});

describe('a damaged checkpoint', () => {
  const readAll = () => readCheckpoint(dir, { verify: true }).close();

  it('is found for a flipped bit at any byte of its files, with file and tensor named', () => {
    save(3);
    const path = join(dir, 'step-3');
    for (const name of readdirSync(path)) {
      const good = readFileSync(join(path, name));
      for (let at = 0; at < good.length; at++) {
        const bad = Buffer.from(good);
        bad[at] ^= 1 << (at % 8);
        writeFileSync(join(path, name), bad);
        const message = userError(readAll);
        // White space of the manifest may change into other white space: nothing is damaged then.
        if (message === 'no error') expect(JSON.parse(bad.toString())).toEqual(JSON.parse(good.toString()));
        else expect(message, `${name} byte ${at}`).toContain(name === 'manifest.json' ? 'step-3' : name);
        if (name.endsWith('.safetensors') && at >= 8 + Number(good.readBigUInt64LE(0)))
          expect(message).toMatch(/tensor h\.0\.w(\.scale)? does not match/);
      }
      writeFileSync(join(path, name), good);
    }
    expect(userError(readAll)).toBe('no error');
  });

  it('is found for every truncation', () => {
    save(3);
    const path = join(dir, 'step-3');
    for (const name of readdirSync(path)) {
      const good = readFileSync(join(path, name));
      // The manifest's last byte is its newline.
      for (let length = 0; length < good.length - (name === 'manifest.json' ? 1 : 0); length += 7) {
        writeFileSync(join(path, name), good.subarray(0, length));
        expect(userError(readAll), `${name} cut to ${length}`).toContain(name);
      }
      writeFileSync(join(path, name), good);
    }
  });

  it('is found when files are missing, extra, linked, or from another step', () => {
    save(1);
    save(2);
    const file = join(dir, 'step-2', 'model.safetensors');
    const good = readFileSync(file);
    rmSync(file);
    expect(userError(readAll)).toMatch(/cannot read .*model\.safetensors: it does not exist/);
    symlinkSync(join(dir, 'step-1', 'model.safetensors'), file);
    expect(userError(readAll)).toMatch(/symbolic link/);
    rmSync(file);
    cpSync(join(dir, 'step-1', 'model.safetensors'), file);
    expect(userError(readAll)).toMatch(/tensor h\.0\.w.* does not match its checksum/);
    writeFileSync(file, good);
    writeFileSync(join(dir, 'step-2', 'more.safetensors'), good);
    expect(userError(readAll)).toMatch(/more\.safetensors does not belong/);
    rmSync(join(dir, 'step-2', 'more.safetensors'));
    cpSync(join(dir, 'step-1', 'manifest.json'), join(dir, 'step-2', 'manifest.json'));
    expect(userError(readAll)).toMatch(/step-2 holds step 1/);
  });

  it('is skipped for the one before when asked', () => {
    save(1);
    save(2);
    save(3);
    for (const step of [2, 3]) {
      const file = join(dir, `step-${step}`, 'model.safetensors');
      const bytes = readFileSync(file);
      bytes[bytes.length - 1] ^= 1;
      writeFileSync(file, bytes);
    }
    const told: string[] = [];
    const read = readCheckpoint(dir, { onDamaged: (message) => told.push(message) });
    expect(read.step).toBe(1);
    expect(told).toHaveLength(2);
    read.close();
    rmSync(join(dir, 'step-1'), { recursive: true });
    expect(userError(() => readCheckpoint(dir, { onDamaged: () => {} }))).toMatch(/step-3.*damaged/);
  });

  it('cannot lead out of its folder by its manifest', () => {
    save(1);
    const record = { size: 2, sha256: sha256('{}') };
    for (const name of ['../x.json', '/etc/passwd', 'a/b.json', '.json', '..', 'nul\0.json']) {
      writeFileSync(join(dir, 'step-1', 'manifest.json'), formatManifest({ step: 1, files: { [name]: record } }));
      expect(userError(readAll), name).toMatch(/only plain names are allowed/);
    }
    const evil = formatManifest({ step: 1, files: {} }).replace('"files"', '"__proto__"');
    writeFileSync(join(dir, 'step-1', 'manifest.json'), evil);
    expect(userError(readAll)).toMatch(/damaged/);
    for (const entry of [null, 3, {}, { size: 1 }, { size: -1, tensors: null }]) {
      const files = { 'a.json': entry } as never;
      writeFileSync(join(dir, 'step-1', 'manifest.json'), formatManifest({ step: 1, files }));
      expect(userError(readAll)).toMatch(/damaged/);
    }
    expect(({} as Record<string, unknown>).step).toBeUndefined();
  });
});

describe('a disk that refuses', () => {
  /** Runs a save in a child, so that limits and signals cannot hurt the test. */
  const saveInChild = (target: string, scale: number, before = '') => {
    const source = (name: string) => JSON.stringify(pathToFileURL(join(import.meta.dirname, name)).href);
    const script = `
      import { writeCheckpoint } from ${source('checkpoint.ts')};
      const bytes = new Uint8Array(${scale} * 1024).fill(7);
      try {
        writeCheckpoint(${JSON.stringify(target)}, 2, [{ name: 'model.safetensors', tensors: [{ name: 'w', dtype: 'U8', shape: [bytes.length], bytes: () => bytes }] }], { trainer: {} });
        console.log('saved');
      } catch (error) { console.log(error.name + ': ' + error.message); }`;
    const entry = join(dir, 'child.ts');
    writeFileSync(entry, script);
    const node = `${process.execPath} --import tsx -C source ${entry}`;
    return spawnSync('sh', ['-c', `${before} exec ${node}`], {
      encoding: 'utf8',
      cwd: import.meta.dirname,
    }).stdout.trim();
  };

  it('by a file size limit: one clear line, the partial removed, the previous intact', (test) => {
    if (process.platform === 'win32') return test.skip('needs ulimit');
    const target = join(dir, 'run');
    expect(saveInChild(target, 64)).toBe('saved');
    const first = readFileSync(join(target, 'step-2', 'manifest.json'), 'utf8');
    expect(saveInChild(target, 512, 'ulimit -f 128;')).toMatch(
      /^UserError: cannot write .*step-2: .*\(EFBIG\); the checkpoints before it are intact$/,
    );
    expect(readdirSync(target).sort()).toEqual(['latest', 'step-2']);
    expect(readFileSync(join(target, 'step-2', 'manifest.json'), 'utf8')).toBe(first);
    readCheckpoint(target, { verify: true }).close();
  });

  it('when it is full, at any point of the save', (test) => {
    const target = join(dir, 'small');
    mkdirSync(target);
    const mounted =
      process.platform === 'linux' &&
      spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', target]).status === 0;
    if (!mounted) return test.skip('needs the right to mount a tmpfs');
    try {
      writeCheckpoint(target, 1, stateAt(1), {});
      let full = 0;
      const room = statfsSync(target);
      const freeKiB = (room.bavail * room.bsize) / 1024;
      for (let filler = freeKiB; filler >= 0; filler -= 4) {
        rmSync(join(target, 'step-2'), { recursive: true, force: true });
        writeFileSync(join(target, 'filler'), new Uint8Array(filler * 1024));
        const message = userError(() =>
          writeCheckpoint(target, 2, stateAt(2, 100), { trainer: { filler } }, { keep: 2 }),
        );
        if (message !== 'no error') {
          full++;
          expect(message).toMatch(
            /cannot write .*: the disk is full.*\(ENOSPC\); the checkpoints before it are intact/,
          );
        }
        expect(readdirSync(target).filter((name) => !/^(filler|latest|step-[12])$/.test(name))).toEqual([]);
        const last = readCheckpoint(target, { verify: true });
        expect(last.step).toBe(existsSync(join(target, 'step-2')) ? 2 : 1);
        last.close();
        readCheckpoint(join(target, 'step-1'), { verify: true }).close();
      }
      expect(full).toBeGreaterThan(4);
      expect(full).toBeLessThan(freeKiB / 4);
      rmSync(join(target, 'filler'));
      writeCheckpoint(target, 3, stateAt(3), {});
      expect(latestCheckpoint(target)?.step).toBe(3);
    } finally {
      spawnSync('umount', [target]);
    }
  });

  it('when a file stands where the folder should be', () => {
    writeFileSync(join(dir, 'file'), '');
    expect(userError(() => writeCheckpoint(join(dir, 'file'), 1, [], {}))).toMatch(/cannot write|cannot read/);
  });
});
