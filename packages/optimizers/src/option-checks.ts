import type { Parameter, Rounding } from '@blockwise/tensorflow';

/** A problem for each option that is no finite number of at least 0. */
export function notNegative(options: Record<string, number>): string[] {
  return Object.entries(options)
    .filter(([, value]) => !(Number.isFinite(value) && value >= 0))
    .map(([name, value]) => `${name} is ${value}, expected a number of at least 0`);
}

/** A problem for each option that is no integer of at least `least`. */
export function notIntegersFrom(least: number, options: Record<string, number>): string[] {
  return Object.entries(options)
    .filter(([, value]) => !(Number.isSafeInteger(value) && value >= least))
    .map(([name, value]) => `${name} is ${value}, expected an integer of at least ${least}`);
}

type Stored = Pick<Parameter, 'name' | 'storageDtype'>;

/** Some parameters of one fault, in a few words. */
const named = ([{ name, storageDtype }, ...more]: readonly Stored[]) =>
  `${name}${more.length > 0 ? ` and ${more.length} more` : ''} is stored as ${storageDtype}`;

/** A problem where parameters to be trained are no floats: codes of quantised weights. */
export function storageProblems(parameters: readonly Stored[]): string[] {
  const codes = parameters.filter(({ storageDtype }) => !/float/.test(storageDtype));
  return codes.length > 0 ? [`${named(codes)}, expected floats: train adapters beside quantised weights`] : [];
}

/** What is wrong with how 16-bit parameters are to be rounded. */
export function roundingProblems(rounding: Rounding | undefined, parameters: readonly Stored[]): string[] {
  if (rounding && rounding.mode !== 'nearest' && rounding.mode !== 'stochastic')
    return [`rounding.mode is ${(rounding as Rounding).mode}, expected nearest or stochastic`];
  if (rounding?.mode !== 'stochastic') return [];
  const problems: string[] = [];
  if (!Number.isSafeInteger(rounding.seed)) problems.push(`rounding.seed is ${rounding.seed}, expected an integer`);
  const others = parameters.filter(({ storageDtype }) => !['bfloat16', 'float32'].includes(storageDtype));
  if (others.length > 0)
    problems.push(
      `stochastic rounding is made for bfloat16, but ${named(others)}: use rounding nearest or bfloat16 weights`,
    );
  return problems;
}
