// The command line: what it is called, its options and help. Each command loads what it needs only when it runs, so that
// `--help` and usage errors answer at once.
import { Command, CommanderError } from 'commander';
import { benchCommand } from './commands/bench.ts';
import { compareCommand } from './commands/compare.ts';
import { doctorCommand } from './commands/doctor.ts';
import { exportCommand } from './commands/export.ts';
import { generateCommand } from './commands/generate.ts';
import { importCommand } from './commands/import.ts';
import { launchCommand, runLaunch } from './commands/launch.ts';
import { scheduleCommand } from './commands/schedule.ts';
import { trainCommand } from './commands/train.ts';
import { exitCodes, oneLine, report } from './errors.ts';
import { quietBrokenPipe } from './output.ts';
import { version } from './version.ts';

const examples = `
Examples:
  fp8lm train                                   a small GPT on built-in text, in FP8, in about two minutes
  fp8lm train gpt-12m --data ./texts --recipe o2 --steps 2000 --out runs/first
  fp8lm generate --checkpoint runs/first --prompt "Once upon a time"
  fp8lm compare gpt-nano --recipes bf16,o2 --minutes 2 --out runs/compare
  fp8lm import ./gpt2 --out runs/gpt2           a Hugging Face model; \`export\` goes the other way
  fp8lm bench step --preset gpt-12m --recipe o2
  fp8lm schedule --pp 4 --microbatches 8        the timeline of a pipeline
  fp8lm launch --nproc 2 -- npx tsx train.ts
  fp8lm doctor                                  what this machine has, what is missing, what to do`;

/**
 * Runs the command line.
 * @param args without the program's name
 * @returns the exit code; results are on stdout, errors are one line on stderr
 */
export async function main(args: readonly string[]): Promise<number> {
  quietBrokenPipe();
  const result = { code: 0, args };
  const program = new Command('fp8lm')
    .description('Train language models in FP8.')
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show help')
    .addHelpText('after', examples);
  for (const make of [
    trainCommand,
    compareCommand,
    generateCommand,
    importCommand,
    exportCommand,
    benchCommand,
    scheduleCommand,
    launchCommand,
    doctorCommand,
  ]) {
    program.addCommand(make(result));
  }
  prepare(program);
  if (args.length === 0) {
    program.outputHelp();
    return exitCodes.ok;
  }
  try {
    // Everything after `launch` is the launcher's, `--` included, which commander would take out.
    if (args[0] === 'launch') return await runLaunch(args.slice(1));
    await program.parseAsync(args, { from: 'user' });
    return result.code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    return report(error);
  }
}

/** Errors of this command and those below it become one line and an exception. */
function prepare(command: Command): void {
  command
    .exitOverride()
    .showSuggestionAfterError(true)
    .helpCommand(false)
    .configureOutput({ outputError: (text, write) => write(`fp8lm: ${oneLine(text).replace(/^error: /, '')}\n`) });
  for (const sub of command.commands) prepare(sub);
}
