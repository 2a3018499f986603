// The rendezvous: rank 0 waits at MASTER_ADDR:MASTER_PORT until all ranks have joined, tells each the table of all members,
// waits until all have connected (and mapped each other's arenas), and lets them go. Three rounds, each answered, so that
// nothing is lost when the store closes.
import { randomBytes } from 'node:crypto';
import { DistError, ProtocolError } from '../errors.ts';
import { type Member, memberFields } from './member.ts';
import { checkFields, type FieldType, maxMessageBytes, pack, unpack, unpackMessage } from './messages.ts';
import { scan } from './scan.ts';
import { type CurveKeys, sameSecret } from './security.ts';

type ZeroMQ = typeof import('zeromq');

const bounds = { linger: 1000, maxMessageSize: maxMessageBytes, handshakeInterval: 3000, backlog: 512 };
const joinFields: Record<string, FieldType> = { version: 'int', size: 'int', job: 'string', ...memberFields };
/** Version of the messages; ranks of different ones refuse each other. */
export const version = 2;

export interface Table {
  generation: number;
  members: Member[];
}

export interface Job {
  rank: number;
  size: number;
  /** Where the store listens: tcp://host:port or ipc://path. */
  store: string;
  /** Any text that all ranks of one job share: two jobs that meet at one port do not mix. */
  job: string;
  keys: CurveKeys | null;
  timeoutMs: number;
}

/** Whose memory a rank has mapped: arenas of payload slots, lanes. */
export interface Mapped {
  arenas: number[];
  lanes: number[];
}

const mappedFields: Record<keyof Mapped, FieldType> = { arenas: 'ints', lanes: 'ints' };

/** A rendezvous in progress: `table` is agreed; `ready` ends the second round with what each rank has mapped. */
export interface Rendezvous {
  table: Table;
  ready(mapped: Mapped): Promise<Mapped[]>;
}

export function meet(zmq: ZeroMQ, job: Job, self: Member): Promise<Rendezvous> {
  return job.rank === 0 ? serve(zmq, job, self) : join(zmq, job, self);
}

function late(job: Job, what: string): DistError {
  return new DistError(
    'timeout',
    `rendezvous at ${job.store}: ${what} after ${Math.round(job.timeoutMs / 1000)} s (rank ${job.rank} of ${job.size})`,
  );
}

async function serve(zmq: ZeroMQ, job: Job, self: Member): Promise<Rendezvous> {
  const generation = randomBytes(4).readUInt32LE();
  const members: (Member | null)[] = Array(job.size).fill(null);
  members[0] = self;
  if (job.size === 1) return { table: { generation, members: [self] }, ready: async (mapped) => [mapped] };
  const curve = job.keys ? { curveServer: true, curveSecretKey: job.keys.secretKey, zapDomain: 'fp8lm' } : {};
  const socket = new zmq.Router({ ...bounds, mandatory: true, ...curve });
  await socket.bind(job.store);
  const peers = new Map<string, { id: Buffer; rank: number }>();
  const deadline = performance.now() + job.timeoutMs;

  /** The next message of anybody; null when the time is up. */
  async function next(): Promise<{ id: Buffer; bytes: Buffer } | null> {
    const left = deadline - performance.now();
    if (left <= 0) return null;
    socket.receiveTimeout = Math.ceil(left);
    try {
      const parts = await socket.receive();
      return parts.length === 2 ? { id: parts[0], bytes: parts[1] } : next();
    } catch {
      return null;
    }
  }
  const missing = (list: readonly unknown[]) => list.flatMap((x, rank) => (x ? [] : [rank]));

  const fail = (error: Error): Error => {
    socket.close();
    return error;
  };
  const refuse = async (id: Buffer, reason: string) => {
    await socket.send([id, pack({ kind: 'refused', reason })]).catch(() => {});
  };

  while (missing(members).length) {
    const message = await next();
    if (!message) throw fail(late(job, `rank ${missing(members).join(', ')} did not join`));
    let m: Record<string, unknown>;
    try {
      m = unpackMessage(message.bytes, joinFields);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      continue;
    }
    const rank = m.rank as number;
    if (m.version !== version) await refuse(message.id, `it speaks version ${m.version}, rank 0 version ${version}`);
    else if (!sameSecret(m.job as string, job.job)) await refuse(message.id, 'it belongs to another job');
    else if (m.size !== job.size)
      await refuse(message.id, `it was started as one of ${m.size} ranks, rank 0 as one of ${job.size}`);
    else if (rank < 1 || rank >= job.size) await refuse(message.id, `rank ${rank} is not in 1 to ${job.size - 1}`);
    else if (members[rank])
      await refuse(
        message.id,
        `rank ${rank} has already joined (pid ${members[rank]?.pid} on ${members[rank]?.hostname})`,
      );
    else {
      members[rank] = Object.fromEntries(Object.keys(memberFields).map((k) => [k, m[k]])) as unknown as Member;
      peers.set(message.id.toString('hex'), { id: message.id, rank });
    }
  }
  const table = { generation, members: members as Member[] };
  const tableBytes = pack({ kind: 'table', ...table });
  for (const { id } of peers.values()) await socket.send([id, tableBytes]);

  /** One message of the given fields from every peer. */
  async function all(fields: Record<string, FieldType>, what: string): Promise<Map<number, Record<string, unknown>>> {
    const got = new Map<number, Record<string, unknown>>();
    while (got.size < peers.size) {
      const message = await next();
      if (!message) throw fail(late(job, `not all ranks ${what}`));
      const peer = peers.get(message.id.toString('hex'));
      try {
        if (peer) got.set(peer.rank, unpackMessage(message.bytes, fields));
        else unpackMessage(message.bytes, joinFields);
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        continue;
      }
      if (!peer) await refuse(message.id, 'the job has started without it');
    }
    return got;
  }

  return {
    table,
    async ready(mapped) {
      const answers = await all(mappedFields, 'connected');
      const lists = members.map((_, rank) => (rank === 0 ? mapped : (answers.get(rank) as unknown as Mapped)));
      const go = pack({ kind: 'go', lists });
      for (const { id } of peers.values()) await socket.send([id, go]);
      await all({ bye: 'int' }, 'said that they start');
      socket.close();
      return lists;
    },
  };
}

async function join(zmq: ZeroMQ, job: Job, self: Member): Promise<Rendezvous> {
  const { keys } = job;
  const curve = keys
    ? { curveServerKey: keys.publicKey, curvePublicKey: keys.publicKey, curveSecretKey: keys.secretKey }
    : {};
  const socket = new zmq.Dealer({ ...bounds, reconnectInterval: 50, reconnectMaxInterval: 500, ...curve });
  socket.connect(job.store);
  const deadline = performance.now() + job.timeoutMs;

  async function next(what: string): Promise<Record<string, unknown>> {
    socket.receiveTimeout = Math.max(1, Math.ceil(deadline - performance.now()));
    let bytes: Buffer;
    try {
      [bytes] = await socket.receive();
    } catch {
      socket.close();
      throw late(job, what);
    }
    scan(bytes);
    const m = unpack(bytes) as Record<string, unknown>;
    if (m.kind === 'refused') {
      socket.close();
      throw new DistError('aborted', `rendezvous at ${job.store}: rank 0 refused rank ${job.rank}: ${m.reason}`);
    }
    return m;
  }

  await socket.send(pack({ version, size: job.size, job: job.job, ...self }));
  const m = await next('rank 0 did not answer');
  const table = { generation: m.generation as number, members: checkTable(m, job.size) };
  return {
    table,
    async ready(mapped) {
      await socket.send(pack(mapped));
      const go = await next('rank 0 did not give the start');
      await socket.send(pack({ bye: 1 }));
      socket.close();
      return checkMapped(go.lists, job.size);
    },
  };
}

function checkMapped(lists: unknown, size: number): Mapped[] {
  if (!Array.isArray(lists) || lists.length !== size) throw new ProtocolError('rank 0 gave a start that is none');
  return lists.map((list) => checkFields(list, mappedFields) as unknown as Mapped);
}

function checkTable(m: Record<string, unknown>, size: number): Member[] {
  const list = m.members;
  if (!Number.isSafeInteger(m.generation) || !Array.isArray(list) || list.length !== size) {
    throw new ProtocolError('rank 0 sent a table of members that is none');
  }
  return list.map((member) => checkFields(member, memberFields) as unknown as Member);
}
