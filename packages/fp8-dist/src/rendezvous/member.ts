import type { FieldType } from './messages.ts';

/** What a rank tells of itself when it joins. */
export interface Member {
  rank: number;
  pid: number;
  /** Names the machine and its network: equal strings can talk over IPC and share memory. */
  host: string;
  hostname: string;
  /** Endpoints of the data and the control inbox. */
  ipcData: string | null;
  ipcControl: string | null;
  tcpData: string | null;
  tcpControl: string | null;
  /** host:port of heartbeats as datagrams, or null. */
  udp: string | null;
  /** Descriptor and bytes of its shared arena, or null. */
  arenaFd: number | null;
  arenaBytes: number | null;
  /** Descriptor of its lane's block (lane/lane.ts), or null. */
  laneFd: number | null;
}

export const memberFields: Record<keyof Member, FieldType> = {
  rank: 'int',
  pid: 'int',
  host: 'string',
  hostname: 'string',
  ipcData: 'string?',
  ipcControl: 'string?',
  tcpData: 'string?',
  tcpControl: 'string?',
  udp: 'string?',
  arenaFd: 'int?',
  arenaBytes: 'int?',
  laneFd: 'int?',
};

/** Where `from` reaches `to`, and whether they share a machine. @throws Error if there is no way */
export function route(from: Member, to: Member): { data: string; control: string; local: boolean } {
  const local = from.host === to.host;
  if (local && to.ipcData && to.ipcControl) return { data: to.ipcData, control: to.ipcControl, local };
  if (to.tcpData && to.tcpControl) return { data: to.tcpData, control: to.tcpControl, local };
  throw new Error(
    `rank ${from.rank} on ${from.hostname} cannot reach rank ${to.rank} on ${to.hostname}: it listens on IPC only; ` +
      'set MASTER_ADDR to an address that all machines reach, and FP8_JOB_KEY',
  );
}
