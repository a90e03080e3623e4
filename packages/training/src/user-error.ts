/** A mistake that the user can repair: the command line shows its message alone and exits with code 2. */
export class UserError extends Error {
  override name = 'UserError';
}
