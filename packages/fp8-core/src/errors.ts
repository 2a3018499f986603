/** A mistake of the user (a flag, a file, a shape in a run file): shown as one clear line, exit code 2, no stack trace. */
export class UserError extends Error {
  override name = 'UserError';
}
