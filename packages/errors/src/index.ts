export { isObject } from './is-object.ts';
export { didYouMean, nearMatch, nearMatches } from './near-matches.ts';
export { UserError } from './user-error.ts';
