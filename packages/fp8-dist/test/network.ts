// Two machines on one: network namespaces joined by a cable (veth) that can be cut, made lossy, or blocked one way. Needs root,
// `ip`, and `nft` for losses; `networkMissing` says what is not there.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { newJobKey } from '../src/rendezvous/security.ts';
import { type Failure, ownTmp, type RankLine, rankLines } from './jobs.ts';

function run(command: string, ...args: string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? stderr}`);
}

const has = (command: string): boolean => spawnSync('sh', ['-c', `command -v ${command}`]).status === 0;

/** Why two machines cannot be made here, or null. */
export function networkMissing(): string | null {
  if (process.platform !== 'linux') return 'not Linux';
  if (process.getuid?.() !== 0) return 'not root';
  const missing = ['ip', 'nft', 'ss'].filter((c) => !has(c));
  if (missing.length) return `no ${missing.join(', ')}`;
  try {
    const machines = twoMachines();
    machines.loss(30);
    machines.remove();
    return null;
  } catch (error) {
    for (const end of ['a', 'b']) spawnSync('ip', ['netns', 'del', `fp8t${process.pid}n${made - 1}${end}`]);
    return (error as Error).message;
  }
}

export interface Machines {
  /** Namespaces and addresses of the two machines. */
  readonly names: readonly [string, string];
  readonly addresses: readonly [string, string];
  /** Pulls the cable, or plugs it in again. */
  plugged(yes: boolean): void;
  /** Drops so many percent of what comes in, on one machine or on both. */
  loss(percent: number, which?: 0 | 1): void;
  /** Drops all datagrams on both machines. */
  blockDatagrams(): void;
  /** Closes all TCP connections of a machine that are open now; how many. */
  closeConnections(which: 0 | 1): number;
  remove(): void;
}

let made = 0;

export function twoMachines(): Machines {
  const id = `fp8t${process.pid}n${made++}`;
  const names = [`${id}a`, `${id}b`] as const;
  const addresses = ['10.77.0.1', '10.77.0.2'] as const;
  for (const name of names) run('ip', 'netns', 'add', name);
  run('ip', '-n', names[0], 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', names[1]);
  names.forEach((name, i) => {
    run('ip', '-n', name, 'addr', 'add', `${addresses[i]}/24`, 'dev', 'eth0');
    run('ip', '-n', name, 'link', 'set', 'lo', 'up');
    run('ip', '-n', name, 'link', 'set', 'eth0', 'up');
    run(
      'ip',
      'netns',
      'exec',
      name,
      'nft',
      'add table inet t; add chain inet t in { type filter hook input priority 0; }',
    );
  });
  return {
    names,
    addresses,
    plugged: (yes) => run('ip', '-n', names[0], 'link', 'set', 'eth0', yes ? 'up' : 'down'),
    loss(percent, which) {
      names.forEach((name, i) => {
        if (which !== undefined && which !== i) return;
        const some = percent < 100 ? `numgen random mod 100 < ${percent} ` : '';
        const rule = `add rule inet t in iifname eth0 ${some}drop`;
        run(
          'ip',
          'netns',
          'exec',
          name,
          'nft',
          percent > 0 ? `flush chain inet t in; ${rule}` : 'flush chain inet t in',
        );
      });
    },
    blockDatagrams() {
      for (const name of names) {
        run('ip', 'netns', 'exec', name, 'nft', 'insert rule inet t in iifname eth0 meta l4proto udp drop');
      }
    },
    closeConnections(which) {
      const command = ['netns', 'exec', names[which], 'ss', '-HKtn', 'state', 'established'];
      const { status, stdout, stderr } = spawnSync('ip', command, { encoding: 'utf8' });
      if (status !== 0) throw new Error(`ss -K: ${stderr}`);
      return stdout.split('\n').filter(Boolean).length;
    },
    remove() {
      for (const name of names) {
        // A test that failed half-way leaves its job running.
        const pids = spawnSync('ip', ['netns', 'pids', name], { encoding: 'utf8' }).stdout.split('\n').filter(Boolean);
        if (pids.length) spawnSync('kill', ['-9', ...pids]);
        spawnSync('ip', ['netns', 'del', name]);
      }
    },
  };
}

export interface MachineJob {
  running: Promise<number[]>;
  /** `reports`: why each rank failed, the first lines of its flight record; `written`: all that the job wrote. */
  ended: Promise<{
    codes: (number | null)[];
    failures: Failure[];
    lines: RankLine[];
    reports: string[];
    written: string;
    err: string;
    endedAt: number;
  }>;
  /** The launchers' process ids. */
  launchers: number[];
  stop(signal: NodeJS.Signals): void;
}

/** Starts a launcher on each machine, `nproc` ranks each; encrypted, since the address is not loopback. */
export function startMachines(
  machines: Machines,
  nproc: number,
  env: Record<string, string>,
  { key = newJobKey(), maxRestarts = 0 } = {},
): MachineJob {
  const program = fileURLToPath(new URL('./ranks/loop.ts', import.meta.url));
  const flight = mkdtempSync(join(ownTmp, 'flight-'));
  const output = rankLines(2 * nproc);
  const port = 20_000 + (process.pid % 20_000);
  const node = [process.execPath, '--import', 'tsx', '--conditions=source'];
  let err = '';
  const children = machines.names.map((name, i) => {
    const wiring = ['--nproc', `${nproc}`, '--nnodes', '2', '--node-rank', `${i}`];
    const where = [
      '--master',
      `${machines.addresses[0]}:${port}`,
      '--flight',
      flight,
      '--max-restarts',
      `${maxRestarts}`,
    ];
    const launcher = fileURLToPath(new URL('./ranks/launcher.ts', import.meta.url));
    const child = spawn('ip', ['netns', 'exec', name, ...node, launcher, ...wiring, ...where, '--', ...node, program], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...process.env,
        NODE_OPTIONS: '',
        FP8_TIMEOUT_MS: '20000',
        FP8_RENDEZVOUS_TIMEOUT_MS: '60000',
        FP8_JOB_KEY: key,
        ...env,
      },
    });
    child.stdout.on('data', (d) => output.take(i, d));
    child.stderr.on('data', (d) => {
      err += d;
    });
    return child;
  });
  const codes = children.map((c) => new Promise<number | null>((resolve) => c.on('close', (code) => resolve(code))));
  return {
    running: output.running,
    launchers: children.map((c) => c.pid as number),
    stop(signal) {
      for (const c of children) c.kill(signal);
    },
    ended: Promise.all(codes).then((ended) => {
      output.end();
      const records = readdirSync(flight).map((f) => readFileSync(join(flight, f), 'utf8'));
      const reports = records.map((text) => text.split('\n', 1)[0]);
      rmSync(flight, { recursive: true, force: true });
      return {
        codes: ended,
        failures: output.failures(),
        lines: output.lines,
        reports,
        written: `${err}${JSON.stringify(output.lines)}${records.join()}`,
        err,
        endedAt: Date.now(),
      };
    }),
  };
}
