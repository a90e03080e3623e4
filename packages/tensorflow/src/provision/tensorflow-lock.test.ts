import { describe, expect, test } from 'vitest';
import { pipArguments } from './download-wheel.ts';
import { hostPlatform, libcSuffix, libraryNames, lockedWheel, tensorFlowLock } from './tensorflow-lock.ts';

const wheels = Object.entries(tensorFlowLock.wheels).flatMap(([platform, variants]) =>
  Object.entries(variants).map(([variant, wheel]) => ({ platform, variant, wheel })),
);

describe('the lock file', () => {
  test('covers Linux x64 (cpu, cuda) and arm64, and macOS arm64', () => {
    expect(wheels.map(({ platform, variant }) => `${platform} ${variant}`).sort()).toEqual([
      'darwin-arm64 cpu',
      'linux-arm64 cpu',
      'linux-x64 cpu',
      'linux-x64 cuda',
    ]);
  });

  test.each(wheels)(
    '$platform $variant names one wheel and its two shared objects by content',
    ({ platform, wheel }) => {
      const { pythonVersion, abi, platformTag } = wheel;
      const tags = `${abi}-${abi}-${platformTag}`;
      expect(wheel.filename).toBe(`${wheel.package.replaceAll('-', '_')}-${tensorFlowLock.version}-${tags}.whl`);
      expect(abi).toBe(`cp${pythonVersion.replace('.', '')}`);
      expect(Object.keys(wheel.libraries).sort()).toEqual(Object.values(libraryNames(platform.split('-')[0])).sort());
      for (const file of [wheel, ...Object.values(wheel.libraries)]) {
        expect(file.sha256).toMatch(/^[0-9a-f]{64}$/);
        expect(file.bytes).toBeGreaterThan(4e7);
      }
    },
  );

  test('never repeats a checksum', () => {
    const sums = wheels.flatMap(({ wheel }) => [wheel, ...Object.values(wheel.libraries)].map(({ sha256 }) => sha256));
    expect(new Set(sums).size).toBe(3 * wheels.length);
  });
});

test('pip is given no index, so the configured mirrors apply, and must check the hash', () => {
  const args = pipArguments(lockedWheel(tensorFlowLock, 'linux-x64', 'cpu'), 'requirements.txt', 'target');
  expect(args.filter((argument) => /index-url|find-links|trusted|proxy|^-i$|^-f$/.test(argument))).toEqual([]);
  expect(args).toContain('--require-hashes');
  expect(args).toContain('--no-deps');
});

describe('a platform without a wheel', () => {
  const supported = 'Supported: linux-x64 (cpu, cuda), linux-arm64 (cpu), darwin-arm64 (cpu).';
  test.each([
    ['win32-x64', 'cpu', 'WSL 2'],
    ['darwin-x64', 'cpu', 'the folder that holds libtensorflow_framework.2.dylib and libtensorflow_cc.2.dylib'],
    ['linux-x64-musl', 'cpu', 'the folder that holds libtensorflow_framework.so.2 and libtensorflow_cc.so.2'],
    ['linux-arm64', 'cuda', 'ask for the cpu variant instead of cuda'],
  ] as const)('%s %s is refused with what to do', (platform, variant, advice) => {
    const refused = () => lockedWheel(tensorFlowLock, platform, variant);
    expect(refused).toThrow(expect.objectContaining({ name: 'UserError' }));
    expect(refused).toThrow(`TensorFlow 2.21.0 has no ready-made ${variant} library for ${platform}.`);
    expect(refused).toThrow(supported);
    expect(refused).toThrow(advice);
  });
});

test('this machine is named by system and processor', () => {
  expect(hostPlatform()).toBe(`${process.platform}-${process.arch}`);
  expect(['', '-musl']).toContain(libcSuffix());
});
