// What an error looks like to a person: one line and an exit code, never a stack trace.
export const exitCodes = { ok: 0, internal: 1, usage: 2, brokenPipe: 141 } as const;

/** A mistake of the user, found by the command line itself. Told apart by name, as fp8-core's is loaded only when needed. */
export class UsageError extends Error {
  override name = 'UserError';
}

const SYSTEM: Record<string, string> = {
  ENOENT: 'no such file or folder',
  ENOTDIR: 'a part of the path is no folder',
  EISDIR: 'it is a folder',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EMFILE: 'too many open files; `ulimit -n` shows and raises the limit',
  EEXIST: 'it exists already',
};

/** V8's own wording of RangeErrors: bugs, or no memory left; all others are ours and name a value that is out of range. */
const V8_RANGE = /^(Invalid (array|typed array|string|array buffer)|Maximum call stack|Array buffer allocation)/;
/** Our TypeErrors begin with the place, in lower case, and a colon. */
const OURS = /^[a-z][\w .-]*: /;

/** @returns the line to print (without the program's name) and the exit code */
export function explain(error: unknown): { line: string; code: number } {
  if (!(error instanceof Error)) return { line: `internal error: ${String(error)}`, code: exitCodes.internal };
  const message = oneLine(error.message);
  const { code, path } = error as NodeJS.ErrnoException;
  if (error.name === 'DistError') return { line: message, code: exitCodes.internal };
  const isOurs =
    error.name === 'UserError' ||
    (error instanceof RangeError && !V8_RANGE.test(message)) ||
    (error instanceof TypeError && code === undefined && OURS.test(message));
  if (isOurs) return { line: message, code: exitCodes.usage };
  if (code !== undefined && Object.hasOwn(SYSTEM, code)) {
    return { line: `${path ? `${path}: ` : ''}${SYSTEM[code]} (${code})`, code: exitCodes.usage };
  }
  const hint = process.env.FP8_DEBUG ? '' : ' (FP8_DEBUG=1 shows where)';
  return { line: `internal error: ${message}${hint}`, code: exitCodes.internal };
}

/** Prints an error to stderr. @returns the exit code */
export function report(error: unknown): number {
  // The rank that failed has said why.
  if (error instanceof Error && error.name === 'OtherRankFailed') return exitCodes.usage;
  const { line, code } = explain(error);
  process.stderr.write(`fp8lm: ${line}\n`);
  if (process.env.FP8_DEBUG && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  return code;
}

export const oneLine = (text: string): string => text.trim().replace(/\s*\n\s*/g, ' ');
