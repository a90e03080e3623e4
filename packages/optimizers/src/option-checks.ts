import type { Parameter, Rounding } from '@blockwise/tensorflow';

/** A problem for each option that is no finite number of at least 0. */
export function notNegative(options: Record<string, number>): string[] {
  return Object.entries(options)
    .filter(([, value]) => !(Number.isFinite(value) && value >= 0))
    .map(([name, value]) => `${name} is ${value}, expected a number of at least 0`);
}

/** What is wrong with how 16-bit parameters are to be rounded. */
export function roundingProblems(
  rounding: Rounding | undefined,
  parameters: readonly Pick<Parameter, 'name' | 'storageDtype'>[],
): string[] {
  if (rounding && rounding.mode !== 'nearest' && rounding.mode !== 'stochastic')
    return [`rounding.mode is ${(rounding as Rounding).mode}, expected nearest or stochastic`];
  if (rounding?.mode !== 'stochastic') return [];
  const problems: string[] = [];
  if (!Number.isSafeInteger(rounding.seed)) problems.push(`rounding.seed is ${rounding.seed}, expected an integer`);
  const others = parameters.filter(({ storageDtype }) => !['bfloat16', 'float32'].includes(storageDtype));
  if (others.length > 0)
    problems.push(
      `stochastic rounding is made for bfloat16, but ${others[0].name}${others.length > 1 ? ` and ${others.length - 1} more` : ''} is stored as ${others[0].storageDtype}: use rounding nearest or bfloat16 weights`,
    );
  return problems;
}
