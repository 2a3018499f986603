import { Command, Option } from 'commander';
import { between, count } from '../numbers.ts';

export interface ScheduleCommandOptions {
  pp: number;
  microbatches: number;
  virtual: number;
  schedule?: '1f1b' | 'interleaved' | 'gpipe';
  group?: number;
  backwardTime: number;
  json?: boolean;
  svg?: string;
}

/** `fp8lm schedule`. @param result gets the exit code */
export function scheduleCommand(result: { code: number }): Command {
  return new Command('schedule')
    .description(
      'Draw the timeline of a pipeline: when each rank runs which micro-batch, how long it idles, what it keeps.',
    )
    .option('--pp <n>', 'pipeline stages', count, 4)
    .option('--microbatches <n>', 'micro-batches a step', count, 8)
    .option('--virtual <n>', 'chunks of the model a rank', count, 1)
    .addOption(
      new Option('--schedule <name>', 'order of the work (default: interleaved with chunks, else 1f1b)').choices([
        '1f1b',
        'interleaved',
        'gpipe',
      ]),
    )
    .option('--group <n>', 'interleaved: micro-batches through one chunk before the next (default: pp)', count)
    .option('--backward-time <x>', 'time of a backward, in forwards', between(0.01, 100), 2)
    .option('--json', '{bubble, idleShare, ranks: [{warmup, peakInFlight, instructions, spans}]} as one line')
    .option('--svg <file>', 'write the drawing to this file')
    .addHelpText(
      'after',
      `
Examples:
  fp8lm schedule --pp 4 --microbatches 8
  fp8lm schedule --pp 4 --microbatches 8 --virtual 2 --svg timeline.svg
  fp8lm schedule --pp 2 --microbatches 4 --schedule gpipe --json

3 is the forward of micro-batch 3, (3) its backward, a dot is idle time; a letter names the chunk. The clock counts forwards of
one chunk on equal stages; messages take no time.`,
    )
    .action(async (options: ScheduleCommandOptions) => {
      const { drawSchedule } = await import('../schedule.ts');
      drawSchedule(options);
      result.code = 0;
    });
}
