import { describe, expect, it } from 'vitest';
import { ProgressLine, type ProgressOptions } from './progress.ts';

/** A stream that remembers, and a clock that is set by hand. */
function rig(options: Partial<ProgressOptions> & { tty?: boolean; columns?: number } = {}) {
  const written: string[] = [];
  const clock = { ms: 0 };
  const { tty = false, columns, ...rest } = options;
  const progress = new ProgressLine({
    total: 1000,
    stream: { write: (text) => written.push(text), isTTY: tty, columns },
    env: {},
    now: () => clock.ms,
    ...rest,
  });
  return { progress, written, clock };
}

const full = { loss: 3.412, tokensPerSecond: 18_234, memoryBytes: 312e6, lr: 2.9e-4, gradNorm: 0.81 };

describe('the progress line', () => {
  it('without a terminal prints plain lines, every N steps and the last', () => {
    const { progress, written, clock } = rig({ total: 100, everySteps: 40 });
    for (let step = 1; step <= 100; step++) {
      clock.ms = step * 500;
      progress.update({ step, ...full });
    }
    progress.done();
    expect(written).toEqual([
      'step 1/100 1% | loss 3.412 | 18.2k tok/s | mem 312 MB | lr 2.9e-4 | gnorm 0.81 | ETA --:--\n',
      'step 41/100 41% | loss 3.412 | 18.2k tok/s | mem 312 MB | lr 2.9e-4 | gnorm 0.81 | ETA 00:30\n',
      'step 81/100 81% | loss 3.412 | 18.2k tok/s | mem 312 MB | lr 2.9e-4 | gnorm 0.81 | ETA 00:10\n',
      'step 100/100 100% | loss 3.412 | 18.2k tok/s | mem 312 MB | lr 2.9e-4 | gnorm 0.81 | ETA 00:00\n',
    ]);
  });

  it('without a terminal is not silent longer than asked', () => {
    const { progress, written, clock } = rig({ everySteps: 500, everySeconds: 10 });
    for (let step = 1; step <= 5; step++) {
      clock.ms = step * 4000;
      progress.update({ step });
    }
    expect(written).toHaveLength(2); // steps 1 and 4
  });

  it('on a terminal rewrites one line, not oftener than the eye sees', () => {
    const { progress, written, clock } = rig({ tty: true, columns: 200 });
    for (let step = 1; step <= 1000; step++) {
      clock.ms = step;
      progress.update({ step, ...full });
    }
    progress.done();
    expect(written.length).toBeLessThan(20);
    expect(written.slice(0, -1).every((text) => text.startsWith('\r') && text.endsWith('\x1b[K'))).toBe(true);
    expect(written.at(-1)).toMatch(/^\r.*1000\/1000 100%.*\x1b\[K\n$/); // oxlint-disable-line no-control-regex
    progress.done();
    expect(written.at(-1)).toContain('1000/1000');
  });

  it('has no colours with NO_COLOR, and no control codes on a dumb terminal', () => {
    const colours = rig({ tty: true });
    colours.progress.update({ step: 1, ...full });
    expect(colours.written[0]).toContain('\x1b[36m');
    const plain = rig({ tty: true, env: { NO_COLOR: '1' } });
    plain.progress.update({ step: 1, ...full });
    expect(plain.written[0]).not.toMatch(/\x1b\[\d+m/); // oxlint-disable-line no-control-regex
    const dumb = rig({ tty: true, env: { TERM: 'dumb' } });
    dumb.progress.update({ step: 1 });
    expect(dumb.written[0]).toBe('step 1/1000 0% | ETA --:--\n');
  });

  it('fits the terminal, the important parts last to go', () => {
    for (const columns of [200, 80, 60, 40, 25, 10, 1]) {
      const { progress, written } = rig({ tty: true, columns, env: { NO_COLOR: '1' }, label: 'o2' });
      progress.update({ step: 120, ...full });
      const line = written[0].slice(1, -3);
      expect(line.length, `${columns} columns`).toBeLessThan(columns);
      if (columns >= 40) expect(line).toMatch(/step 120\/1000 12% \| loss 3\.412/);
    }
  });

  it('puts notes above the line', () => {
    const live = rig({ tty: true, columns: 60, env: { NO_COLOR: '1' } });
    live.progress.update({ step: 1, loss: 2 });
    live.progress.note('saved step-1');
    expect(live.written.at(-1)).toBe('\r\x1b[Ksaved step-1\nstep 1/1000 0% | loss 2.000 | ETA --:--\x1b[K');
    const plain = rig();
    plain.progress.note('saved step-1');
    expect(plain.written).toEqual(['saved step-1\n']);
  });
});
