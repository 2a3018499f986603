import { Command } from 'commander';

/** `fp8lm doctor`. @param result gets the exit code */
export function doctorCommand(result: { code: number }): Command {
  return new Command('doctor')
    .description('Say what this machine has, what is missing, and what to do about it.')
    .option('--json', '{ok, checks: [{name, state, found, advice}]} as one line')
    .addHelpText(
      'after',
      `
Examples:
  fp8lm doctor
  fp8lm doctor --json

Exit code 0 if training on the CPU works, 1 if it does not.`,
    )
    .action(async (options: { json?: boolean }) => {
      const { doctor } = await import('../doctor/doctor.ts');
      result.code = await doctor(options);
    });
}
