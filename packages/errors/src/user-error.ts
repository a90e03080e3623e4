/**
 * A mistake that the user can set right (a file, a name, an option): its message says what is wrong, where, and what to do. A command line shows
 * the message alone and exits with code 2.
 */
export class UserError extends Error {
  override name = 'UserError';

  /** One error for all `problems`, at least one, found in `what`: a file, or a group of options. */
  static of(what: string, problems: readonly string[]): UserError {
    const heading = `${what}: ${problems.length} problems`;
    return new UserError(problems.length === 1 ? `${what}: ${problems[0]}` : [heading, ...problems].join('\n  - '));
  }
}
