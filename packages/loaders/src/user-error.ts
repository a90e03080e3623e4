/** An error the user can mend: the command line prints its message alone and exits with code 2. */
export class UserError extends Error {
  override name = 'UserError';
}
