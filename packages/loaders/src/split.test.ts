import { describe, expect, it } from 'vitest';
import { splitDataset } from './split.ts';

const data = Array.from({ length: 999 }, (_, i) => i);

describe('splitDataset', () => {
  it('holds out a fraction, rounded up, or a count', () => {
    expect(splitDataset(data, 0.1, 42).validation).toHaveLength(100);
    expect(splitDataset(data, 37, 42).validation).toHaveLength(37);
    expect(splitDataset(data, 1, 42).validation).toHaveLength(1);
    expect(splitDataset(data, 0, 42)).toEqual({ train: data, validation: [] });
  });

  it('parts the data without loss or doubles, in order, the same for the same seed and not for another', () => {
    const { train, validation } = splitDataset(data, 0.25, 7);
    expect([...train, ...validation].sort((a, b) => a - b)).toEqual(data);
    expect(validation).toEqual([...validation].sort((a, b) => a - b));
    expect(splitDataset(data, 0.25, 7).validation).toEqual(validation);
    expect(splitDataset(data, 0.25, 8).validation).not.toEqual(validation);
  });

  it('refuses sizes that make no sense', () => {
    expect(() => splitDataset(data, -0.1, 0)).toThrow(
      'val_size: found -0.1; expected 0 (no validation), a fraction in (0, 1)',
    );
    expect(() => splitDataset(data, 1.5, 0)).toThrow('val_size: found 1.5');
    expect(() => splitDataset(data, NaN, 0)).toThrow('val_size: found NaN');
    expect(() => splitDataset(data, 999, 0)).toThrow(
      'val_size: 999 holds out 999 of 999 examples, which leaves none to train on',
    );
    expect(() => splitDataset([1], 0.5, 0)).toThrow('holds out 1 of 1 examples');
  });
});
