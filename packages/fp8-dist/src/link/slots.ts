// Payload memory of one rank: fixed slots, taken to send a chunk and free again when every receiver is known to have it. The
// slots are this rank's credit: what is in flight is bounded by them, whatever a slow peer does. With the native addon they
// lie in a shared arena, so that ranks on the same machine read them in place; else they are ordinary buffers.

import { UserError } from 'fp8-core';
import { maxPayloadBytes } from './frame.ts';

/**
 * Bytes of a slot, and the largest chunk. Small enough for a core's own cache, large enough to hide the cost of a frame.
 * FP8_SLOT_BYTES changes it, for tests that want many chunks of little data; all ranks must agree.
 */
export const slotBytes = slotBytesFrom(process.env.FP8_SLOT_BYTES);

function slotBytesFrom(text: string | undefined): number {
  const value = Number(text || 512 * 1024);
  if (value >= 1024 && value <= maxPayloadBytes && value % 1024 === 0) return value;
  throw new UserError(
    `FP8_SLOT_BYTES is ${JSON.stringify(text)}; expected a multiple of 1024 up to ${maxPayloadBytes}`,
  );
}

export interface Slot {
  readonly index: number;
  readonly bytes: Buffer;
  /** Receivers that may still read it. */
  readers: number;
}

export class SlotPool {
  readonly size: number;
  /** Called when a slot comes free. */
  onFree: () => void = () => {};
  private readonly arena: Uint8Array | null;
  private readonly free: Slot[] = [];
  private made = 0;

  constructor(size: number, arena: Uint8Array | null = null) {
    this.size = size;
    this.arena = arena;
  }

  get available(): number {
    return this.free.length + this.size - this.made;
  }

  /** A slot that nobody reads, or null when all are in flight. */
  take(readers: number): Slot | null {
    let slot = this.free.pop();
    if (!slot) {
      if (this.made === this.size) return null;
      const index = this.made++;
      const bytes = this.arena
        ? Buffer.from(this.arena.buffer, this.arena.byteOffset + index * slotBytes, slotBytes)
        : Buffer.allocUnsafeSlow(slotBytes);
      slot = { index, bytes, readers };
    }
    slot.readers = readers;
    return slot;
  }

  /** One receiver of the slot is done with it. */
  release(slot: Slot): void {
    if (slot.readers <= 0) throw new Error('internal: a payload slot was released twice');
    if (--slot.readers > 0) return;
    this.free.push(slot);
    this.onFree();
  }
}
