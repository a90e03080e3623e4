/**
 * A mistake in what the user gave (a file, a name, an option): its message says what to do; the command line exits with
 * 2.
 */
export class UserError extends Error {
  override name = 'UserError';
}

/** One error for all problems of one file: `path: 2 problems` and a line each. */
export function userErrorOf(path: string, problems: readonly string[]): UserError {
  if (problems.length === 1) return new UserError(`${path}: ${problems[0]}`);
  return new UserError(
    `${path}: ${problems.length} problems\n${problems.map((problem) => `  - ${problem}`).join('\n')}`,
  );
}
