/** Why communication failed; the first failure ends a communicator, and every later call throws the same. */
export type FailureKind =
  | 'timeout' // a collective did not end before its deadline
  | 'mismatch' // ranks called different things
  | 'peer-lost' // a rank ended or fell silent
  | 'aborted' // another rank failed and said so
  | 'protocol' // a member sent what no member may send
  | 'closed' // used after close
  | 'worker'; // the comm worker itself failed

/** A failure of communication, with what a program may want to know of it. */
export class DistError extends Error {
  override name = 'DistError';
  readonly kind: FailureKind;
  /** Ranks that are to blame, as far as this rank can tell. */
  readonly ranks: readonly number[];

  constructor(kind: FailureKind, message: string, ranks: readonly number[] = []) {
    super(message);
    this.kind = kind;
    this.ranks = ranks;
  }
}

/** A message that breaks the protocol: what decoders throw, and nothing else. */
export class ProtocolError extends Error {
  override name = 'ProtocolError';
}
