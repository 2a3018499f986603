/**
 * Moves messages between the ranks of a job; knows nothing of what they mean. Messages from one rank to another arrive in
 * order, or not at all (a cut connection): the link above numbers and repeats them. Implementations run inside the comm
 * worker, or inside a test.
 */
export interface Transport {
  readonly rank: number;
  readonly size: number;
  /**
   * Queues a message of one or two parts; never blocks. The parts must stay unchanged until the peer acknowledged them.
   */
  send(to: number, parts: readonly Uint8Array[]): void;
  /** Begins to receive; to be called once `onMessage` is set. */
  start(): void;
  /** Set by the owner before any message can arrive; `from` is -1 where the transport cannot tell. */
  onMessage: (parts: readonly Uint8Array[], from: number) => void;
  /** The connection to a rank is gone and did not come back. */
  onLost: (rank: number, why: string) => void;
  /** Bytes handed over and received, headers included. */
  readonly bytes: { sent: number; received: number };
  /** The address of a rank, for messages. */
  address(rank: number): string;
  /** Closes all sockets; what was not acknowledged may be lost. Resolves once none of their calls is pending any more. */
  close(): Promise<void>;
}
