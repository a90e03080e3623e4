/**
 * Loaded before a script (`--import`), so that Node itself stays small beside the model: 50 MB less. It reads the source maps of our own files
 * alone (those of TensorFlow.js take 25 MB), its space for short-lived objects, which would grow to 32 MB, keeps its first size, and what outlives
 * that is collected when it has grown by a fifth (otherwise 20 KB of every step stay for thousands of steps).
 */
import Module from 'node:module';
import process from 'node:process';
import v8 from 'node:v8';

v8.setFlagsFromString('--semi-space-growth-factor=1');
v8.setFlagsFromString('--heap-growing-percent=20');

/** How Node compiles every CommonJS module. */
const { prototype } = Module as unknown as {
  prototype: { _compile(content: string, path: string, ...more: unknown[]): unknown };
};
const { _compile: compile } = prototype;
prototype._compile = function (content, path, ...more) {
  process.setSourceMapsEnabled(!path.includes('/node_modules/'));
  try {
    return compile.call(this, content, path, ...more);
  } finally {
    process.setSourceMapsEnabled(true);
  }
};
