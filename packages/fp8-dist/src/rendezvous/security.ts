// Who may join. A job has one key of 32 random bytes; every rank derives the job's CURVE key pair from it. A rank's inbox
// accepts only peers that hold that pair: without the public key the first message of the handshake cannot be made, and the
// ZAP handler compares the peer's key besides. The key is in no argument list and no message.
import { createPrivateKey, createPublicKey, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { isIPv4 } from 'node:net';
import { UserError } from 'fp8-core';

/** Z85 text of a Curve25519 pair, as ZeroMQ takes it. */
export interface CurveKeys {
  publicKey: string;
  secretKey: string;
}

const z85 = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#';

/** ZeroMQ's text form of binary keys (rfc.zeromq.org/spec/32); a multiple of 4 bytes. */
export function encodeZ85(bytes: Uint8Array): string {
  let text = '';
  for (let i = 0; i < bytes.length; i += 4) {
    let value = ((bytes[i] << 24) | (bytes[i + 1] << 16) | (bytes[i + 2] << 8) | bytes[i + 3]) >>> 0;
    let group = '';
    for (let k = 0; k < 5; k++) {
      group = z85[value % 85] + group;
      value = Math.floor(value / 85);
    }
    text += group;
  }
  return text;
}

/** A new job key, as text for FP8_JOB_KEY. */
export const newJobKey = (): string => randomBytes(32).toString('base64url');

/** The CURVE pair that all ranks of a job share. @throws UserError if the key is not 32 bytes of base64url */
export function curveKeys(jobKey: string): CurveKeys {
  const seed = Buffer.from(jobKey, 'base64url');
  if (seed.length !== 32)
    throw new UserError(`FP8_JOB_KEY holds ${seed.length} bytes; expected 32 as base64url (fp8lm launch makes one)`);
  const secret = Buffer.from(hkdfSync('sha256', seed, 'fp8lm', 'curve', 32));
  const pkcs8 = Buffer.concat([Buffer.from('302e020100300506032b656e04220420', 'hex'), secret]);
  const key = createPublicKey(createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' }));
  const { x } = key.export({ format: 'jwk' });
  return { publicKey: encodeZ85(Buffer.from(x as string, 'base64url')), secretKey: encodeZ85(secret) };
}

/**
 * The job key from FP8_JOB_KEY_FILE or FP8_JOB_KEY, or null.
 * @throws UserError if the file is readable by others
 */
export function jobKeyFrom(env: NodeJS.ProcessEnv): string | null {
  const file = env.FP8_JOB_KEY_FILE;
  if (file) {
    let mode: number;
    try {
      mode = statSync(file).mode;
    } catch (error) {
      throw new UserError(`FP8_JOB_KEY_FILE ${file}: ${(error as Error).message}`);
    }
    if (mode & 0o077)
      throw new UserError(
        `FP8_JOB_KEY_FILE ${file} may be read by others (mode ${(mode & 0o777).toString(8)}); run chmod 600`,
      );
    return readFileSync(file, 'utf8').trim();
  }
  return env.FP8_JOB_KEY || null;
}

/** True for addresses that no other machine can reach. */
export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || (isIPv4(host) && host.startsWith('127.'));

/** Compares secrets in constant time. */
export function sameSecret(a: string, b: string): boolean {
  const x = Buffer.from(a);
  const y = Buffer.from(b);
  return x.length === y.length && timingSafeEqual(x, y);
}
