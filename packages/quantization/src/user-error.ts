/** An error the user can mend: the command line prints its message alone and exits with code 2. */
export class UserError extends Error {
  override name = 'UserError';

  /** One error for all `problems` found in `what`. */
  static of(what: string, problems: readonly string[]): UserError {
    return new UserError(problems.length === 1 ? `${what}: ${problems[0]}` : [`${what}:`, ...problems].join('\n  - '));
  }
}
