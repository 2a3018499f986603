import { UserError } from 'fp8-core';
import { expect } from 'vitest';

/** What a user's mistake is told, in one line; `no error` where `run` finds none. */
export function userError(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    expect((error as Error).message).not.toContain('\n');
    return (error as Error).message;
  }
  return 'no error';
}
