// Brings a rank's sockets up: inboxes, rendezvous, arenas, connections.
import { mkdirSync, rmSync } from 'node:fs';
import { createSocket } from 'node:dgram';
import { availableParallelism, hostname } from 'node:os';
import { UserError } from 'fp8-core';
import { hostId, makeSocketFolder } from '../host.ts';
import { slotBytes, SlotPool } from '../link/slots.ts';
import type { CommAddon } from '../math/native.ts';
import { type Member, route } from '../rendezvous/member.ts';
import { curveKeys, isLoopback } from '../rendezvous/security.ts';
import { meet } from '../rendezvous/store.ts';
import { serveZap, type ZapHandler } from '../rendezvous/zap.ts';
import type { Transport } from '../transport/transport.ts';
import { bindDatagrams, type Datagrams } from '../transport/datagrams.ts';
import { bindInbox, zeromqTransport } from '../transport/zeromq.ts';
import { portsTransport } from '../transport/ports.ts';
import type { Wiring } from './messages.ts';

export interface LaneWiring {
  /** The addon's number of it. */
  id: number;
  /** By rank, the ranks whose blocks it has mapped. */
  connected: readonly (readonly number[])[];
}

export interface Wired {
  data: Transport;
  control: Transport;
  generation: number;
  pool: SlotPool;
  arenaOf: (rank: number) => Uint8Array | null;
  isMappedBy: (rank: number) => boolean;
  /** This rank's lane and who is on it with whom; null where there is none. */
  lane: LaneWiring | null;
  pidOf: (rank: number) => number | null;
  addresses: string[];
  /** Heartbeats to ranks on other machines, if there are any. */
  datagrams: Datagrams | null;
  /** Set before the transports report anything. */
  events: { onDown: (rank: number) => void; onUp: (rank: number) => void };
  /** Removes the folder of the job's sockets, whoever made it. */
  removeFolder: () => void;
  close: () => Promise<void>;
}

/** 64 slots of 512 KiB: what this rank may have in flight. */
const arenaSlots = 64;

export async function wire(wiring: Wiring, addon: CommAddon | null): Promise<Wired> {
  return wiring.kind === 'ports' ? wirePorts(wiring) : wireZeroMQ(wiring, addon);
}

function wirePorts({ rank, ports }: Extract<Wiring, { kind: 'ports' }>): Wired {
  const data = portsTransport(rank, ports);
  return {
    data,
    control: data,
    generation: 1,
    pool: new SlotPool(arenaSlots),
    arenaOf: () => null,
    isMappedBy: () => false,
    lane: null,
    pidOf: () => null,
    addresses: ports.map((_, r) => `thread ${r}`),
    datagrams: null,
    events: { onDown: () => {}, onUp: () => {} },
    removeFolder: () => {},
    close: () => data.close(),
  };
}

/** The address of this machine that a peer at `host` sees. */
function addressTowards(host: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = createSocket('udp4');
    socket.on('error', reject);
    socket.connect(9, host, () => {
      const { address } = socket.address();
      socket.close();
      resolve(address);
    });
  });
}

async function wireZeroMQ(
  { environment: env, jobKey, rendezvousMs }: Extract<Wiring, { kind: 'zeromq' }>,
  addon: CommAddon | null,
): Promise<Wired> {
  const zmq = await import('zeromq');
  const { rank, worldSize: size, masterAddr, masterPort } = env;
  const overNetwork = !env.folder && !isLoopback(masterAddr);
  if (overNetwork && !jobKey) {
    throw new UserError(
      `MASTER_ADDR ${masterAddr} is reachable from other machines, and the job has no key: set FP8_JOB_KEY (or FP8_JOB_KEY_FILE) ` +
        'to the same 32 random bytes, as base64url, on all machines; `fp8lm launch` makes one',
    );
  }
  const keys = jobKey && overNetwork ? curveKeys(jobKey) : null;
  let zap: ZapHandler | null = null;
  if (keys) zap = await serveZap(zmq, keys.publicKey);

  // A launcher's folder goes with the launcher, whatever becomes of the ranks.
  const given = env.folder ?? env.socketFolder;
  const ownFolder = given ? null : makeSocketFolder();
  const folder = given ?? (ownFolder as string);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  let lane: { lane: number; fd: number } | null = null;
  const removeFolder = () => {
    if (ownFolder) rmSync(ownFolder, { recursive: true, force: true });
  };
  try {
    const ipcData = await bindInbox(zmq, `ipc://${folder}/d${rank}`, null);
    const ipcControl = await bindInbox(zmq, `ipc://${folder}/c${rank}`, null);
    const local = overNetwork ? await addressTowards(masterAddr) : null;
    const tcpData = local ? await bindInbox(zmq, `tcp://${local}:*`, keys) : null;
    const tcpControl = local ? await bindInbox(zmq, `tcp://${local}:*`, keys) : null;
    const datagrams = local && keys ? await bindDatagrams(local) : null;
    const arena = addon?.arenaCreate && process.env.FP8_SHM !== '0' ? addon.arenaCreate(arenaSlots * slotBytes) : null;
    lane = makeLane(addon, rank, env.localSize);
    const self: Member = {
      rank,
      pid: process.pid,
      host: hostId(),
      hostname: hostname(),
      ipcData: ipcData.endpoint,
      ipcControl: ipcControl.endpoint,
      tcpData: tcpData?.endpoint ?? null,
      tcpControl: tcpControl?.endpoint ?? null,
      udp: datagrams?.endpoint ?? null,
      arenaFd: arena?.fd ?? null,
      arenaBytes: arena ? arenaSlots * slotBytes : null,
      laneFd: lane?.fd ?? null,
    };
    const store = env.folder
      ? `ipc://${folder}/store`
      : `tcp://${overNetwork ? masterAddr : '127.0.0.1'}:${masterPort}`;
    const job = process.env.FP8_JOB_ID ?? '';
    const rendezvous = await meet(zmq, { rank, size, store, job, keys, timeoutMs: rendezvousMs }, self);
    const { generation, members } = rendezvous.table;

    const arenas: (Uint8Array | null)[] = members.map((m) => mapArena(addon, self, m));
    const routes = members.map((m) => (m.rank === rank ? { data: '', control: '', local: true } : route(self, m)));
    const addresses = members.map((m, r) =>
      routes[r].local ? `pid ${m.pid}` : `${m.hostname} ${routes[r].data.replace('tcp://', '')}`,
    );
    const events: Wired['events'] = { onDown: () => {}, onUp: () => {} };
    const common = { zmq, rank, size, addresses, keys };
    const data = zeromqTransport({
      ...common,
      inboxes: tcpData ? [ipcData, tcpData] : [ipcData],
      endpoints: routes.map((r) => r.data),
    });
    const control = zeromqTransport({
      ...common,
      inboxes: tcpControl ? [ipcControl, tcpControl] : [ipcControl],
      endpoints: routes.map((r) => r.control),
      onDown: (r) => events.onDown(r),
      onUp: (r) => events.onUp(r),
    });
    const far = members.map((m, r) => (routes[r].local ? null : m.udp));
    datagrams?.join({ key: jobKey as string, generation, rank, endpoints: far });
    const onLane = members.map((m) => connectLane(addon, lane, self, m));
    const mapped = await rendezvous.ready({
      arenas: arenas.flatMap((a, r) => (a ? [r] : [])),
      lanes: onLane.flatMap((yes, r) => (yes ? [r] : [])),
    });
    return {
      data,
      control,
      generation,
      pool: new SlotPool(arenaSlots, arena ? new Uint8Array(arena.memory) : null),
      arenaOf: (r) => arenas[r],
      isMappedBy: (r) => mapped[r].arenas.includes(rank),
      lane: lane && { id: lane.lane, connected: mapped.map((m) => m.lanes) },
      pidOf: (r) => (routes[r].local ? members[r].pid : null),
      addresses,
      datagrams,
      events,
      removeFolder: () => rmSync(folder, { recursive: true, force: true }),
      async close() {
        removeFolder();
        datagrams?.close();
        await Promise.all([data.close(), control.close()]);
        await zap?.close();
      },
    };
  } catch (error) {
    if (lane) addon?.laneClose(lane.lane);
    removeFolder();
    throw error;
  }
}

function mapArena(addon: CommAddon | null, self: Member, peer: Member): Uint8Array | null {
  if (!addon?.arenaMap || peer.rank === self.rank || peer.host !== self.host || process.env.FP8_SHM === '0')
    return null;
  if (peer.arenaFd === null || peer.arenaBytes !== arenaSlots * slotBytes) return null;
  try {
    return new Uint8Array(addon.arenaMap(peer.pid, peer.arenaFd, peer.arenaBytes));
  } catch {
    return null; // another user, or a hardened kernel: payloads go over the socket
  }
}

/** Spinning for long pays only where every rank has a core. */
const spinNs = (localSize: number): number => (localSize <= availableParallelism() ? 30_000 : 1_000);

function makeLane(addon: CommAddon | null, rank: number, localSize: number): { lane: number; fd: number } | null {
  if (!addon?.laneCreate || process.env.FP8_SHM === '0' || process.env.FP8_LANE === '0') return null;
  try {
    return addon.laneCreate(rank, spinNs(localSize));
  } catch {
    return null; // no memfd, or no memory for it: collectives go through the comm worker
  }
}

/** True if this rank reads the other's block, or is the other. */
function connectLane(addon: CommAddon | null, lane: { lane: number } | null, self: Member, peer: Member): boolean {
  if (!addon || !lane || peer.host !== self.host || peer.laneFd === null) return false;
  if (peer.rank === self.rank) return true;
  try {
    addon.laneConnect(lane.lane, peer.rank, peer.pid, peer.laneFd);
    return true;
  } catch {
    return false;
  }
}
