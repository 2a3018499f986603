import { benchAllReduce } from 'fp8-dist';
import type { AllReduceCommandOptions } from '../commands/bench.ts';
import { facts, print, printJson } from '../output.ts';

/** `fp8lm bench allreduce`. */
export async function benchAllReduceCommand({ json, ...options }: AllReduceCommandOptions): Promise<void> {
  const result = await benchAllReduce(options);
  if (json) return printJson(result);
  print(`${options.op} of ${options.elements} elements as ${options.dtype}, ${options.nproc} ranks`);
  print(
    facts([
      ['time', `${result.msPerOp.toFixed(3)} ms`],
      ['speed', `${(result.elementsPerSecond / 1e9).toFixed(3)} G elements/s`],
      ['sent by a rank', `${(result.payloadBytesPerRank / 1e6).toFixed(2)} MB`],
      ['1,024 elements', `${result.latencyUsSmall.toFixed(0)} µs`],
    ]),
  );
}
