export { isObject } from '@blockwise/errors';

/** A JSON object whose fields are still to be looked at. */
export type JsonRecord = Record<string, unknown>;
