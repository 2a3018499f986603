import { UserError } from 'fp8-core';
import { describe, expect, it } from 'vitest';
import { drawSvg, drawText } from './draw.ts';
import {
  bubbleShare,
  computeOrder,
  type Instruction,
  peakInFlight,
  planSchedule,
  type ScheduleOptions,
  schedules,
  warmupForwards,
} from './schedule.ts';
import { simulate } from './simulate.ts';

/** Every plan with few stages: 1f1b and gpipe for any number of micro-batches, interleaved where it can be. */
const plans: ScheduleOptions[] = [];
for (const stages of [1, 2, 3, 4, 5, 8]) {
  for (const microbatches of [1, 2, 3, 4, 5, 8, 16]) {
    plans.push({ stages, microbatches, name: '1f1b' }, { stages, microbatches, name: 'gpipe' });
    for (const virtual of [2, 3, 4])
      for (const groupSize of [stages, stages + 1, microbatches]) {
        const rest = microbatches % groupSize;
        if (stages > 1 && microbatches >= groupSize && groupSize >= stages && (rest === 0 || rest >= stages))
          plans.push({ stages, microbatches, virtual, groupSize, name: 'interleaved' });
      }
  }
}
const title = (o: ScheduleOptions): string =>
  `${o.name}, pp ${o.stages}, m ${o.microbatches}, v ${o.virtual ?? 1}, group ${o.groupSize ?? o.stages}`;

const count = (list: readonly Instruction[], op: Instruction['op']): number => list.filter((i) => i.op === op).length;

describe('schedules', () => {
  it('cover many shapes', () => expect(plans.length).toBeGreaterThan(150));

  it('run every micro-batch through every chunk once each way, and match each message, wait and free', () => {
    for (const options of plans) {
      const plan = planSchedule(options);
      const lists = schedules(options);
      const all = plan.microbatches * plan.virtual;
      lists.forEach((list, rank) => {
        const first = rank === 0 ? plan.microbatches : 0; // chunk 0 of rank 0 reads tokens
        const last = rank === plan.stages - 1 ? plan.microbatches : 0;
        expect(count(list, 'forward'), title(options)).toBe(all);
        expect(count(list, 'backward')).toBe(all);
        expect(count(list, 'recvForward')).toBe(all - first);
        expect(count(list, 'sendBackward')).toBe(all - first);
        expect(count(list, 'freeBackward')).toBe(all - first);
        expect(count(list, 'sendForward')).toBe(all - last);
        expect(count(list, 'recvBackward')).toBe(all - last);
        expect(count(list, 'freeForward')).toBe(all - last);
      });
    }
  });

  it.each([0, 1, 2, Number.POSITIVE_INFINITY])('never deadlock when a send waits beyond %s messages', (buffers) => {
    for (const options of plans) {
      expect(() => simulate(schedules(options), options, { buffers }), title(options)).not.toThrow();
    }
  });

  it('without backwards take any number of micro-batches', () => {
    for (const stages of [1, 2, 3, 4]) {
      for (const microbatches of [1, 2, 3, 5, 8]) {
        for (const virtual of stages > 1 ? [1, 2, 3] : [1]) {
          const options = { stages, microbatches, virtual, forwardOnly: true };
          const { end } = simulate(schedules(options), options, { buffers: 0 });
          expect(end).toBeGreaterThanOrEqual(microbatches * virtual);
          if (virtual === 1) expect(end).toBe(microbatches + stages - 1);
        }
      }
    }
  });

  it('warm up by the formulas of Megatron', () => {
    const forwards = (o: ScheduleOptions, rank: number): number =>
      computeOrder(planSchedule(o), rank).findIndex((c) => c.op === 'backward');
    // The steady phase begins with a forward, so one more than the warm-up stands before the first backward.
    expect([0, 1, 2, 3].map((r) => forwards({ stages: 4, microbatches: 8 }, r))).toEqual([4, 3, 2, 1]);
    expect([0, 1, 2, 3].map((r) => forwards({ stages: 4, microbatches: 2 }, r))).toEqual([2, 2, 2, 1]);
    // 2 (pp - r - 1) + (v - 1) pp: 10, 8, 6, 4
    expect([0, 1, 2, 3].map((r) => forwards({ stages: 4, microbatches: 8, virtual: 2 }, r))).toEqual([11, 9, 7, 5]);
    expect(warmupForwards(planSchedule({ stages: 4, microbatches: 8, virtual: 2 }), 0)).toBe(10);
  });

  it('order chunks as in the published picture: 4 stages, 8 micro-batches, 2 chunks', () => {
    const order = computeOrder(planSchedule({ stages: 4, microbatches: 8, virtual: 2 }), 0);
    const forwards = order.filter((c) => c.op === 'forward').map((c) => `${c.micro}${'ab'[c.chunk]}`);
    expect(forwards.join(' ')).toBe('0a 1a 2a 3a 0b 1b 2b 3b 4a 5a 6a 7a 4b 5b 6b 7b');
    const backwards = order.filter((c) => c.op === 'backward').map((c) => `${c.micro}${'ab'[c.chunk]}`);
    expect(backwards.join(' ')).toBe('0b 1b 2b 3b 0a 1a 2a 3a 4b 5b 6b 7b 4a 5a 6a 7a');
  });

  it.each([1, 2, 3])('idle for (pp - 1) / (v m + pp - 1) when backward takes %s forwards', (backwardTime) => {
    for (const options of plans) {
      const plan = planSchedule(options);
      // Whole groups only: a rest, or larger groups, keep ranks waiting a little longer in some shapes.
      if (plan.name === 'interleaved' && (plan.groupSize !== plan.stages || plan.microbatches % plan.stages)) continue;
      const { idleShare } = simulate(schedules(options), options, { backwardTime });
      expect(idleShare, title(options)).toBeCloseTo(bubbleShare(plan), 12);
    }
  });

  it('keep as many micro-batches alive as predicted, and at most two tensors on their way out', () => {
    for (const options of plans) {
      const plan = planSchedule(options);
      const { peakInFlight: peaks, peakUnsent, peakAsked } = simulate(schedules(options), options);
      peaks.forEach((peak, rank) => {
        expect(peak, `${title(options)}, rank ${rank}`).toBe(peakInFlight(plan, rank));
        expect(peakUnsent[rank]).toBeLessThanOrEqual(2);
        if (plan.name === '1f1b') expect(peakAsked[rank], title(options)).toBeLessThanOrEqual(3);
      });
    }
    expect([0, 1, 2, 3].map((r) => peakInFlight(planSchedule({ stages: 4, microbatches: 8 }), r))).toEqual([
      4, 3, 2, 1,
    ]);
  });

  it('refuse what cannot be, with the numbers', () => {
    const refuse = (o: ScheduleOptions, text: RegExp): void => {
      expect(() => planSchedule(o)).toThrow(UserError);
      expect(() => planSchedule(o)).toThrow(text);
    };
    refuse({ stages: 4, microbatches: 6, virtual: 2 }, /6 micro-batches in groups of 4 leave 2 on 4 stages/);
    refuse({ stages: 4, microbatches: 2, virtual: 2 }, /at least as many micro-batches as stages; 2 < 4/);
    refuse({ stages: 1, microbatches: 2, virtual: 2 }, /at least 2 pipeline stages/);
    refuse({ stages: 2, microbatches: 2, virtual: 2, name: '1f1b' }, /one chunk a rank/);
    refuse({ stages: 0, microbatches: 2 }, /stages is 0/);
    refuse({ stages: 2, microbatches: 2, name: 'zigzag' as never }, /"zigzag" is unknown; there are 1f1b/);
  });
});

describe('the simulator', () => {
  const options = { stages: 2, microbatches: 2 };

  it('sees ranks that wait in a circle', () => {
    const lists = schedules(options);
    // Both wait for the other's message before they send their own.
    const broken = lists.map((list) => list.filter((i) => i.op !== 'sendForward' && i.op !== 'freeForward'));
    expect(() => simulate(broken, options)).toThrow(/deadlocks: rank 0 at backward 0 of chunk 0, rank 1 at forward 0/);
  });

  it('sees two neighbours that both send before they ask', () => {
    const late = schedules({ stages: 2, microbatches: 4 }).map((list) => {
      // Move each receive behind the send that stands after it.
      const out: Instruction[] = [];
      let held: Instruction[] = [];
      for (const i of list) {
        if (i.op.startsWith('recv') && out.length > 4) held.push(i);
        else {
          out.push(i);
          if (i.op.startsWith('send')) {
            out.push(...held);
            held = [];
          }
        }
      }
      return [...out, ...held];
    });
    expect(() => simulate(late, { stages: 2, microbatches: 4 }, { buffers: 0 })).toThrow(/deadlocks|not asked for/);
  });

  it('sees messages that cross on the wire, a gradient before its forward, and an input not asked for', () => {
    const swap = (list: Instruction[], a: number, b: number): Instruction[] => {
      const out = [...list];
      [out[a], out[b]] = [out[b], out[a]];
      return out;
    };
    const [first, second] = schedules(options);
    const sends = first.flatMap((i, at) => (i.op === 'recvBackward' ? [at] : []));
    expect(() => simulate([swap(first, sends[0], sends[1]), second], options)).toThrow(/out of order on the wire/);
    const noAsk = second.filter((i) => i.op !== 'recvForward');
    expect(() => simulate([first, noAsk], options)).toThrow(/not asked for/);
    const noForward = second.filter((i) => i.op !== 'forward');
    expect(() => simulate([first, noForward], options)).toThrow(/its forward has not run/);
  });

  it('lets messages travel under computation in the steady phase', () => {
    const m = 32;
    const o = { stages: 2, microbatches: m };
    const at = (messageTime: number): number => simulate(schedules(o), o, { messageTime }).end;
    // Each message of the fill and drain shows; of the 2 m in between, those of one direction hide under computation.
    expect(at(0.1) - at(0)).toBeLessThan(0.1 * (m + 3));
  });
});

describe('a drawing', () => {
  it('shows each rank as a row', () => {
    const o = { stages: 2, microbatches: 3 };
    const text = drawText(simulate(schedules(o), o));
    expect(text).toMatchInlineSnapshot(`
      "rank 0  | 0   1   ·   ·  (  0   ) 2  (  1   ) ·  (  2   )|
      rank 1  | ·   0  (  0   ) 1  (  1   ) 2  (  2   ) ·   ·  |"
    `);
  });

  it('names chunks by letters', () => {
    const o = { stages: 2, microbatches: 2, virtual: 2 };
    const text = drawText(simulate(schedules(o), o));
    expect(text).toMatchInlineSnapshot(`
      "rank 0  | 0a  1a  0b  1b  ·   ·  (  0b  ) ·  (  1b  )(  0a  )(  1a  )|
      rank 1  | ·   0a  1a  0b (  0b  ) 1b (  1b  )(  0a  )(  1a  ) ·   ·  |"
    `);
  });

  it('is well-formed as SVG, a box for each forward and backward', () => {
    const o = { stages: 2, microbatches: 3 };
    const svg = drawSvg(simulate(schedules(o), o), 'a < b');
    expect(svg.match(/<rect [^>]*stroke/g)).toHaveLength(12);
    expect(svg).toContain('a &lt; b');
  });
});
