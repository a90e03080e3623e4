import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createCanvas, GlobalFonts, loadImage } from '@napi-rs/canvas';
import { describe, expect, it } from 'vitest';
import { lineChart } from './charts.ts';
import { exampleRunRecord } from './example-run-record.ts';
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
  it('keeps a constant constant from the first step, and follows Adam-style bias correction', () => {
    expect(smooth([1, 2, 3].map((x) => ({ x, y: 4 }))).map(({ y }) => y)).toEqual(
      [4, 4, 4].map((y) => expect.closeTo(y, 12)),
    );
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
