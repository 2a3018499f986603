import { writeFileSync } from 'node:fs';
import {
  bubbleShare,
  drawSvg,
  drawText,
  peakInFlight,
  planSchedule,
  schedules,
  simulate,
  warmupForwards,
} from 'fp8-dist';
import type { ScheduleCommandOptions } from './commands/schedule.ts';
import { note, print, printJson, table } from './output.ts';

const percent = (x: number): string => `${(100 * x).toFixed(1)} %`;

/** `fp8lm schedule`. @throws UserError if the schedule cannot be */
export function drawSchedule(options: ScheduleCommandOptions): void {
  const { pp: stages, microbatches, virtual, schedule: name, group: groupSize, backwardTime, json, svg } = options;
  const plan = planSchedule({ stages, microbatches, virtual, name, groupSize });
  const lists = schedules(plan);
  const simulation = simulate(lists, plan, { backwardTime });
  const bubble = bubbleShare(plan);
  const title =
    `${plan.name}: ${stages} stages${virtual > 1 ? ` of ${virtual} chunks` : ''}, ${microbatches} micro-batches, ` +
    `idle ${percent(simulation.idleShare)}`;
  if (svg) {
    writeFileSync(svg, drawSvg(simulation, title));
    note(`wrote ${svg}`);
  }
  const ranks = lists.map((instructions, rank) => ({
    warmup: warmupForwards(plan, rank),
    peakInFlight: peakInFlight(plan, rank),
    instructions,
    spans: simulation.spans[rank],
  }));
  if (json) return printJson({ ...plan, bubble, idleShare: simulation.idleShare, end: simulation.end, ranks });
  print(title);
  print();
  print(drawText(simulation, cellTime(backwardTime)));
  print();
  print(
    table([
      ['', ...lists.map((_, rank) => `rank ${rank}`)],
      [
        'forwards before the first backward',
        ...ranks.map((r) => `${r.warmup + (r.warmup < microbatches * virtual ? 1 : 0)}`),
      ],
      [`${virtual > 1 ? 'chunks' : 'micro-batches'} kept at most`, ...ranks.map((r) => `${r.peakInFlight}`)],
    ]),
  );
  print();
  print(`(pp - 1) / (${virtual > 1 ? 'v ' : ''}m + pp - 1) = ${percent(bubble)}`);
}

/** The longest cell that forwards and backwards fill wholly, as far as that is sensible. */
function cellTime(backwardTime: number): number {
  for (const parts of [1, 2, 3, 4, 5]) {
    if (Math.abs(backwardTime * parts - Math.round(backwardTime * parts)) < 1e-9) return 1 / parts;
  }
  return 0.2;
}
