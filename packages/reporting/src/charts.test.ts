import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createCanvas, GlobalFonts, loadImage, type SKRSContext2D } from '@napi-rs/canvas';
import { describe, expect, it, vi } from 'vitest';
import { lineChart, type LineChart } from './charts.ts';
import { exampleRunRecord } from './example-run-record.test-support.ts';
import { lossChart, smooth } from './loss-chart.ts';
import { lossCsv } from './loss-table.ts';
import { writeReport } from './report.ts';

/** Counts the pixels of exactly one colour inside a box given in shares of the image's width and height. */
async function countPixels(png: Uint8Array, colour: [number, number, number], box = [0, 0, 1, 1]): Promise<number> {
  const image = await loadImage(png);
  const context = createCanvas(image.width, image.height).getContext('2d');
  context.drawImage(image, 0, 0);
  const [x, y, right, bottom] = box.map((share, i) => Math.round(share * (i % 2 === 0 ? image.width : image.height)));
  const { data } = context.getImageData(x!, y!, right! - x!, bottom! - y!);
  let found = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] === colour[0] && data[i + 1] === colour[1] && data[i + 2] === colour[2]) found++;
  }
  return found;
}

/** All texts of what is drawn meanwhile. */
function textsOf(draw: () => unknown): string[] {
  const context = Object.getPrototypeOf(createCanvas(1, 1).getContext('2d')) as SKRSContext2D;
  const fillText = vi.spyOn(context, 'fillText');
  try {
    draw();
    return fillText.mock.calls.map(([text]) => text);
  } finally {
    fillText.mockRestore();
  }
}

/** The numbers beside the axes of a chart of one line. */
function axisNumbers(points: LineChart['series'][number]['points']): number[] {
  const chart = { title: 'T', xTitle: 'x', yTitle: 'y', series: [{ label: 'a', points }] };
  return textsOf(() => lineChart(chart)).flatMap((text) => (/^-?[\d.]+$/.test(text) ? Number(text) : []));
}

const blue: [number, number, number] = [0x00, 0x72, 0xb2];
const orange: [number, number, number] = [0xd5, 0x5e, 0x00];
const shade: [number, number, number] = [0xf1, 0xf5, 0xf9];

describe('loss.png', () => {
  it('is a PNG of 1920 x 1080 pixels, byte for byte the same for the same record', async () => {
    const png = lossChart(exampleRunRecord());
    const image = await loadImage(png);
    expect([image.width, image.height]).toEqual([1920, 1080]);
    expect(Buffer.compare(png, lossChart(exampleRunRecord()))).toBe(0);
  });

  it('shows smoothed training loss, validation loss and every second block shaded', async () => {
    const png = lossChart(exampleRunRecord());
    const plot = [0.08, 0.2, 1, 0.87];
    expect(await countPixels(png, blue, plot)).toBeGreaterThan(2000);
    expect(await countPixels(png, orange, plot)).toBeGreaterThan(1000);
    const shaded = await countPixels(png, shade, plot);
    expect(shaded / (0.92 * 1920 * 0.67 * 1080)).toBeGreaterThan(0.4);
    expect(shaded / (0.92 * 1920 * 0.67 * 1080)).toBeLessThan(0.6);
  });

  it('draws a run that ended before its first step, one of a single step, and one without blocks', async () => {
    const record = exampleRunRecord();
    record.blockHistory = [];
    expect(await countPixels(lossChart(record), shade)).toBe(0);
    record.validation = [];
    record.steps.splice(1);
    expect(await countPixels(lossChart(record), blue, [0.08, 0.2, 1, 0.9])).toBeGreaterThan(20);
    record.steps.splice(0);
    expect(lossChart(record).length).toBeGreaterThan(1000);
  });

  it('names a model by the last parts of its path, and a hub id whole', () => {
    const record = exampleRunRecord();
    for (const name of [`/home/a/very/long/path/${'and/on/'.repeat(20)}my-run/checkpoint-40`, 'my-run/checkpoint-40']) {
      record.model.name = name;
      expect(textsOf(() => lossChart(record))).toContain(
        'my-run/checkpoint-40, 1.2 billion parameters, 3 blocks, seed 7',
      );
    }
  });

  it('draws no bands where a thousand switches would blur into grey', async () => {
    const record = exampleRunRecord(10_000);
    expect(await countPixels(lossChart(record), shade)).toBe(0);
  });
});

describe('lineChart', () => {
  it('leaves a gap where a value is missing, and puts a logarithmic scale where asked', async () => {
    const points = [1, 2, 3, 4, 5, 6].map((x) => ({ x, y: 10 ** x }));
    const chart = { title: 'T', xTitle: 'x', yTitle: 'y (s)', series: [{ label: 'a', points }] };
    const straight = lineChart({ ...chart, yScale: 'logarithmic' });
    expect(Buffer.compare(straight, lineChart(chart))).not.toBe(0);
    const broken = points.map(({ x, y }) => ({ x, y: x === 3 ? null : y }));
    const gap = lineChart({ ...chart, yScale: 'logarithmic', series: [{ label: 'a', points: broken }] });
    const plot = [0.08, 0.2, 1, 0.87];
    expect(await countPixels(gap, blue, plot)).toBeLessThan((await countPixels(straight, blue, plot)) * 0.8);
  });

  it('marks whole numbers alone where all points have them, one step at least, and fractions where some have', () => {
    // The values lie above 99, so that all smaller numbers are of the x axis.
    const marks = (...places: number[]) =>
      axisNumbers(places.map((x) => ({ x, y: 100 * (x + 1) }))).filter((number) => number < 99);
    expect(marks(0, 1)).toEqual([0, 1]);
    expect(marks(1, 2, 3)).toEqual([1, 2, 3]);
    expect(marks(1)).toEqual([1, 2]);
    expect(marks(0.5, 1)).toContain(0.6);
  });

  it('spans a thousandth of a constant, so that rounding errors are not seen, and no more than the values where they differ', () => {
    const span = (error: number) => {
      const shown = axisNumbers([1000, 2000, 3000].map((x) => ({ x, y: 5 + (x / 1000) * error })));
      const ofValues = shown.filter((number) => number < 99);
      return Math.max(...ofValues) - Math.min(...ofValues);
    };
    for (const error of [0, 1e-9, -1e-15]) {
      expect(span(error)).toBeGreaterThanOrEqual(0.005);
      expect(span(error)).toBeLessThan(0.02);
    }
    expect(span(0.01)).toBeLessThan(0.03);
  });

  it('brings its own font, so that text shows on a machine without any', () => {
    lineChart({ title: 'T', xTitle: 'x', yTitle: 'y', series: [] });
    const inter = GlobalFonts.families.find(({ family }) => family === 'Inter');
    expect(inter?.styles.map(({ weight }) => weight).sort()).toEqual([400, 600]);
    const context = createCanvas(10, 10).getContext('2d');
    const width = (fonts: string) => ((context.font = `40px ${fonts}`), context.measureText('wWiI').width);
    expect(width('Inter')).not.toBe(width('serif'));
  });
});

describe('smooth', () => {
  it('keeps a constant constant to the last bit, and follows Adam-style bias correction', () => {
    const constant = Array.from({ length: 500 }, (_, x) => ({ x, y: Math.log(256) }));
    expect(smooth(constant)).toEqual(constant);
    // n = 5, b = 0.8: y_2 = (0.8 * 0.2 * 1 + 0.2 * 3) / (1 - 0.64)
    expect(
      smooth([
        { x: 1, y: 1 },
        { x: 2, y: 3 },
      ])[1]!.y,
    ).toBeCloseTo(0.76 / 0.36, 12);
    expect(
      smooth([
        { x: 1, y: null },
        { x: 2, y: 3 },
      ]),
    ).toEqual([{ x: 2, y: expect.closeTo(3, 12) }]);
  });

  it('is the weighted mean sum b^(t-i) x_i / sum b^(t-i), b = 1 - 1/n', () => {
    const points = exampleRunRecord(400).steps.map(({ step, loss }) => ({ x: step, y: loss! }));
    const b = 1 - 1 / 8; // a fiftieth of 400 steps
    smooth(points).forEach(({ y }, t) => {
      const weights = points.slice(0, t + 1).map((_, i) => b ** (t - i));
      const total = weights.reduce((sum, weight, i) => sum + weight * points[i]!.y, 0);
      expect(y).toBeCloseTo(total / weights.reduce((sum, weight) => sum + weight), 12);
    });
  });
});

describe('writeReport', () => {
  it('writes the three files from the record, and no chart where none is wanted', () => {
    const folder = join(mkdtempSync(join(tmpdir(), 'blockwise-report-')), 'new', 'run');
    const record = exampleRunRecord();
    writeReport(folder, record, { plotLoss: false });
    expect(readdirSync(folder).sort()).toEqual(['loss.csv', 'memory.md']);
    writeReport(folder, record);
    expect(readdirSync(folder).sort()).toEqual(['loss.csv', 'loss.png', 'memory.md']);
    expect(readFileSync(join(folder, 'loss.csv'), 'utf8')).toBe(lossCsv(record));
  });
});
