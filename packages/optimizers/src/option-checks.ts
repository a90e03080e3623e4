/** A problem for each option that is no finite number of at least 0. */
export function notNegative(options: Record<string, number>): string[] {
  return Object.entries(options)
    .filter(([, value]) => !(Number.isFinite(value) && value >= 0))
    .map(([name, value]) => `${name} is ${value}, expected a number of at least 0`);
}
