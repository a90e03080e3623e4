/**
 * A mistake that the user can repair: the command line shows its message alone and exits with code 2. Each package has its own class of
 * this name, so `instanceof` knows only this package's errors: `error.name === 'UserError'` holds for those of all.
 */
export class UserError extends Error {
  override name = 'UserError';
}
