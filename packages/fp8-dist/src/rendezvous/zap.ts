// ZeroMQ's authentication protocol (rfc.zeromq.org/spec/27): libzmq asks this handler about every CURVE handshake of the
// process before a peer's first message is let through.
import { sameSecret } from './security.ts';

type ZeroMQ = typeof import('zeromq');

export interface ZapHandler {
  /** Handshakes refused so far. */
  refused: number;
  close(): Promise<void>;
}

/** Serves the one ZAP endpoint of this process's context; lets through only peers with `publicKey`. */
export async function serveZap(zmq: ZeroMQ, publicKey: string): Promise<ZapHandler> {
  const { encodeZ85 } = await import('./security.ts');
  const socket = new zmq.Router({ linger: 0 });
  await socket.bind('inproc://zeromq.zap.01');
  let closed = false;
  const handler: ZapHandler = {
    refused: 0,
    async close() {
      closed = true;
      socket.close();
      await served;
    },
  };
  const serve = async () => {
    for (;;) {
      const [peer, empty, version, id, , , , mechanism, key] = await socket.receive();
      const known = mechanism?.toString() === 'CURVE' && key?.length === 32 && sameSecret(encodeZ85(key), publicKey);
      if (!known) handler.refused++;
      const [code, text] = known ? ['200', 'OK'] : ['400', 'not of this job'];
      await socket.send([peer, empty, version, id, code, text, known ? 'member' : '', '']);
    }
  };
  const served = serve().catch((error) => {
    if (!closed) throw error;
  });
  return handler;
}
