import { lineChart } from './charts.ts';
import type { RunRecord } from './run-record.ts';

/**
 * A run's losses as PNG: the training loss of every step (thin) and smoothed, the validation losses as points, and each
 * active block's steps as a vertical band with the block's index.
 */
export function lossChart(record: RunRecord): Uint8Array {
  const raw = record.steps.map(({ step, loss }) => ({ x: step, y: loss }));
  const validation = record.validation.map(({ step, loss }) => ({ x: step, y: loss }));
  const blue = '#0072b2';
  const smoothed = { label: 'training loss, smoothed', points: smooth(raw), colour: blue };
  const seriesOfTraining =
    raw.length < 3
      ? [{ label: 'training loss', points: raw, colour: blue }]
      : [{ label: 'training loss', points: raw, colour: blue, style: 'faint' as const }, smoothed];
  const { name, parameters, blocks } = record.model;
  const size = parameters.toLocaleString('en-US', {
    notation: 'compact',
    compactDisplay: 'long',
    maximumSignificantDigits: 3,
  });
  return lineChart({
    title: `Loss of ${record.name}`,
    subtitle: `${lastParts(name)}, ${size} parameters, ${blocks === 1 ? 'all trained together' : `${blocks} blocks`}, seed ${record.seed}`,
    xTitle: 'step',
    yTitle: 'cross-entropy loss (nats per label token)',
    series: [
      ...seriesOfTraining,
      ...(validation.length > 0
        ? [{ label: 'validation loss', points: validation, colour: '#d55e00', style: 'points' as const }]
        : []),
    ],
    bandsTitle: 'active blocks',
    // Step s is trained by the block of the band that ends at s: bands meet between the steps.
    bands: record.blockHistory.map(({ block, firstStep, lastStep }) => ({
      from: firstStep - 0.5,
      to: lastStep + 0.5,
      label: String(block),
    })),
  });
}

/** Of a path the end, which a line has room for; a hub id is whole. */
function lastParts(name: string): string {
  return name.split(/[\\/]/).slice(-2).join('/');
}

/**
 * Exponential moving average with Adam's bias correction, over a fiftieth of the run (at least 5 steps): e_t = b e_(t-1) +
 * (1 - b) x_t, y_t = e_t / (1 - b^t), b = 1 - 1/n; worked out as y_t = y_(t-1) + (x_t - y_(t-1)) (1 - b) / (1 - b^t), which keeps equal
 * numbers equal to the last bit. Steps without a loss are left out.
 */
export function smooth(points: readonly { x: number; y: number | null }[]): { x: number; y: number }[] {
  const decay = 1 - 1 / Math.max(5, points.length / 50);
  let average = 0;
  let weight = 1;
  return points.flatMap(({ x, y }) => {
    if (y === null) return [];
    weight *= decay;
    average += ((y - average) * (1 - decay)) / (1 - weight);
    return [{ x, y: average }];
  });
}
