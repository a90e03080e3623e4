import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { GlobalFonts } from '@napi-rs/canvas';
import type { ChartConfiguration, ChartDataset, LegendItem, Plugin } from 'chart.js';
import { ChartJSNodeCanvas } from 'chartjs-node-canvas';

/** One line of a chart. A point whose y is null leaves a gap. */
export interface Series {
  label: string;
  points: readonly { x: number; y: number | null }[];
  /** A CSS colour; by default the next of the palette. */
  colour?: string;
  /** `line` by default; `faint` is a thin pale line (raw data beside its smoothed form), `points` a line with dots. */
  style?: 'line' | 'faint' | 'points' | 'dashed';
}

/** A stretch of the x axis with its own pale background, and a label at its top where there is room. */
export interface Band {
  from: number;
  to: number;
  label: string;
}

/** What a chart shows. */
export interface LineChart {
  title: string;
  /** A second, smaller title line. */
  subtitle?: string;
  /** Axis titles, with units. */
  xTitle: string;
  yTitle: string;
  series: readonly Series[];
  /** None are drawn where the narrowest would take less than three pixels. */
  bands?: readonly Band[];
  /** What bands are: the x axis says so where they are drawn. */
  bandsTitle?: string;
  yScale?: 'linear' | 'logarithmic';
  /** Pixels before the doubling for sharp screens; 960 x 540 by default. */
  width?: number;
  height?: number;
}

/** Okabe and Ito's palette (told apart by colour-blind readers too), its yellow and black left out. */
const palette = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'];
const ink = '#1f2933';
const muted = '#616e7c';
const gridColour = '#e4e7eb';
const fontFamily = 'Inter';

/**
 * A line chart as PNG bytes, twice as many pixels as its width and height say. Equal input gives equal bytes: the font
 * comes from a package, nothing is animated, and no time or chance enters.
 */
export function lineChart(chart: LineChart): Uint8Array {
  registerFonts();
  const { width = 960, height = 540 } = chart;
  const bands = visibleBands(chart, width);
  const xTitle = bands.length > 0 && chart.bandsTitle ? `${chart.xTitle} (bands: ${chart.bandsTitle})` : chart.xTitle;
  const canvas = new ChartJSNodeCanvas({ width, height });
  const configuration: ChartConfiguration<'line', { x: number; y: number | null }[]> = {
    type: 'line',
    data: { datasets: chart.series.map(toDataset) },
    options: {
      responsive: false,
      animation: false,
      devicePixelRatio: 2,
      parsing: false,
      normalized: true,
      layout: { padding: { top: 14, right: 26, bottom: 10, left: 12 } },
      plugins: {
        title: {
          display: true,
          align: 'start',
          text: chart.title,
          color: ink,
          font: font(18, 600),
          padding: { bottom: chart.subtitle ? 4 : 12 },
        },
        subtitle: {
          display: Boolean(chart.subtitle),
          align: 'start',
          text: chart.subtitle,
          color: muted,
          font: font(13),
          padding: { bottom: 14 },
        },
        legend: {
          align: 'start',
          labels: {
            usePointStyle: true,
            pointStyleWidth: 28,
            font: font(13),
            generateLabels: () => chart.series.map(legendItem),
          },
        },
      },
      scales: {
        x: { type: 'linear', bounds: 'data', ...xAxis(chart, xTitle), grid: { display: false } },
        y: { type: chart.yScale ?? 'linear', ...yAxis(chart), grid: { color: gridColour } },
      },
    },
    plugins: [background(bands)],
  };
  return canvas.renderToBufferSync(configuration as ChartConfiguration);
}

function font(size: number, weight: 400 | 600 = 400) {
  return { family: `${fontFamily}, sans-serif`, size, weight };
}

function axis(title: string) {
  return {
    title: { display: true, text: title, color: muted, font: font(13) },
    border: { color: '#9aa5b1' },
    ticks: { color: muted, maxRotation: 0, font: font(12) },
  };
}

/** Where all points have whole numbers, such as steps, no others are marked, and the axis spans one step at least. */
function xAxis({ series }: LineChart, title: string) {
  const common = axis(title);
  const places = series.flatMap(({ points }) => points.map(({ x }) => x));
  if (!places.every(Number.isInteger)) return common;
  return { ...common, suggestedMax: rangeOf(places)[0] + 1, ticks: { ...common.ticks, precision: 0 } };
}

/** The axis spans a thousandth of its values at least: the rounding errors of a constant would fill it. */
function yAxis({ series, yTitle }: LineChart) {
  const values = series.flatMap(({ points }) => points.flatMap(({ y }) => y ?? []));
  const [least, most] = rangeOf(values.filter(Number.isFinite));
  const middle = (least + most) / 2;
  const half = Math.abs(middle) / 2000;
  // Without values these are no numbers, of which Chart.js takes no notice.
  return { ...axis(yTitle), suggestedMin: middle - half, suggestedMax: middle + half };
}

function colourOf(series: Series, index: number): string {
  const colour = series.colour ?? palette[index % palette.length]!;
  return series.style === 'faint' ? `${colour}59` : colour;
}

const lineWidths = { line: 2.25, faint: 1, points: 1.5, dashed: 2 };

function toDataset(series: Series, index: number): ChartDataset<'line', { x: number; y: number | null }[]> {
  const { style = 'line', points } = series;
  const dotRadius = points.length > 80 ? 2.5 : 4;
  return {
    data: points.map(({ x, y }) => ({ x, y })),
    borderColor: colourOf(series, index),
    borderWidth: lineWidths[style],
    borderDash: style === 'dashed' ? [7, 5] : [],
    borderJoinStyle: 'round',
    // A line of one point would not be seen.
    pointRadius: style === 'points' || points.length === 1 ? dotRadius : 0,
    pointBackgroundColor: colourOf(series, index),
    pointBorderColor: '#ffffff',
    pointBorderWidth: 1.25,
    clip: 8,
    // Later series lie on top, faint ones below all.
    order: style === 'faint' ? 1000 : -index,
  };
}

function legendItem(series: Series, index: number): LegendItem {
  const { style = 'line' } = series;
  return {
    text: series.label,
    datasetIndex: index,
    fontColor: ink,
    pointStyle: 'line',
    strokeStyle: colourOf(series, index),
    lineWidth: lineWidths[style] + 0.5,
    lineDash: style === 'dashed' ? [5, 4] : [],
  };
}

/** The smallest and the largest of some values; the other way round infinite where there are none. */
function rangeOf(values: readonly number[]): [number, number] {
  return values.reduce<[number, number]>(
    ([least, most], value) => [Math.min(least, value), Math.max(most, value)],
    [Infinity, -Infinity],
  );
}

/** The bands, or none where some would blur; the axes' numbers take about a tenth of the width. */
function visibleBands({ bands = [], series }: LineChart, width: number): readonly Band[] {
  const [least, most] = rangeOf(series.flatMap(({ points }) => points.map(({ x }) => x)));
  const narrowest = bands.reduce((least, { from, to }) => Math.min(least, to - from), Infinity);
  return (0.9 * width * narrowest) / (most - least) < 3 ? [] : bands;
}

/** White paper, then the bands: every second one shaded, and labelled if all labels fit. */
function background(bands: readonly Band[]): Plugin<'line'> {
  return {
    id: 'blockwise-background',
    beforeDraw({ ctx, width, height, chartArea: area, scales }) {
      ctx.save();
      ctx.fillStyle = '#ffffff';
      ctx.fillRect(0, 0, width, height);
      ctx.font = `11px ${fontFamily}, sans-serif`;
      ctx.textAlign = 'center';
      ctx.textBaseline = 'top';
      const pixel = (x: number) => Math.min(area.right, Math.max(area.left, scales['x']!.getPixelForValue(x)));
      const boxes = bands.map(({ from, to, label }) => ({ left: pixel(from), right: pixel(to), label }));
      const labelled = boxes.every(({ left, right, label }) => ctx.measureText(label).width + 4 <= right - left);
      boxes.forEach(({ left, right, label }, index) => {
        ctx.fillStyle = index % 2 === 0 ? '#f1f5f9' : '#ffffff';
        ctx.fillRect(left, area.top, right - left, area.bottom - area.top);
        ctx.fillStyle = '#8795a5';
        if (labelled) ctx.fillText(label, (left + right) / 2, area.top + 5);
      });
      ctx.restore();
    },
  };
}

/** Text in an image must not depend on the fonts of the machine, which may have none. */
function registerFonts(): void {
  if (GlobalFonts.has(fontFamily)) return;
  const require = createRequire(import.meta.url);
  for (const weight of [400, 600]) {
    const file = require.resolve(`@fontsource/inter/files/inter-latin-${weight}-normal.woff2`);
    if (!GlobalFonts.register(readFileSync(file), fontFamily)) {
      throw new Error(`internal: ${file} holds no font that the canvas can read`);
    }
  }
}
