import { expect, it } from 'vitest';
import { fold } from '../engine/descriptor.ts';
import type { Engine } from '../engine/engine.ts';
import type { Frame } from '../link/frame.ts';
import type { Transport } from '../transport/transport.ts';
import { Control, clock } from './control.ts';
import { Liveness } from './liveness.ts';

/** Rank 1 of 2 sleeps in send #883 of rank 0; a beat says that rank 0 sleeps in send #883 of rank 1. @returns what failed */
function hear(beat: Partial<Frame>): string | null {
  let failure: string | null = null;
  const engine = { rank: 1, size: 2, fail: (_kind: string, text: string) => (failure = text) } as unknown as Engine;
  const mine = { group: 7, channel: 2, opSeq: 883, members: [0, 1], absent: [0], name: 'send #883 from 0' };
  const liveness = new Liveness({
    engine,
    transport: {} as Transport,
    control: new Control(),
    deadAfterMs: 2000,
    pidOf: () => null,
    sleepingIn: () => ({ ...mine, since: clock() - 1000 }),
    hasPosted: () => false,
  });
  liveness.stop();
  Object.assign(liveness, { stopped: false });
  const payload = Buffer.from('1\n221\nsend #883 from 1');
  const plain = {
    kind: 'beat',
    from: 0,
    group: 8,
    channel: 3,
    opSeq: 883,
    chunk: 5,
    slot: 2,
    ack: 1000,
    seq: 0,
    payload,
  };
  liveness.receive({ ...plain, ...beat } as Frame);
  return failure;
}

it('accuses nobody of a disagreement whose message may be on its way', () => {
  // Rank 0 has entered what this rank waits for, or has not heard of its sleep: the message was starved, not forgotten.
  expect(hear({ seq: 0 })).toBeNull();
  // It speaks of an earlier sleep.
  expect(hear({ seq: fold([7, 2, 882]) })).toBeNull();
});

it('names two ranks that sleep in what the other knows of and has not entered', () => {
  expect(hear({ seq: fold([7, 2, 883]) })).toMatch(/send #883 from 0.*send #883 from 1.*neither has entered/);
});
