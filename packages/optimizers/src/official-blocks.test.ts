import { initTensorFlow, Parameter, RawTensor, tf } from '@blockwise/tensorflow';
import { beforeAll, expect, test } from 'vitest';
import golden from './golden/official-blocks.json' with { type: 'json' };
import { adam, adamW, BlockOptimizer, isNormOrBias, sgd, type BlockOptimizerOptions } from './index.ts';

// golden/official-blocks.json: the official badam package; command and versions stand in the file.

beforeAll(() => initTensorFlow());

const { names, shape } = golden;
const size = 2 * shape[0] * shape[1];

/** The bfloat16 bytes of each parameter. */
function split(base64: string): Uint8Array[] {
  const bytes = new Uint8Array(Buffer.from(base64, 'base64'));
  return names.map((_, i) => bytes.slice(i * size, (i + 1) * size));
}

function floats(bfloat16: Uint8Array): Float32Array {
  return new Float32Array(Uint32Array.from(new Uint16Array(bfloat16.buffer), (half) => half << 16).buffer);
}

const camel = (options: object) =>
  Object.fromEntries(
    Object.entries(options).map(([key, value]) => [key.replace(/_(.)/g, (_, letter) => letter.toUpperCase()), value]),
  );

function base(optimizer: string, { groups, ...options }: { groups?: boolean }) {
  // The golden's groups give norms no decay and the rest 0.5; the official class overrides both.
  if (groups) return adamW({ weightDecay: 0.5, noDecay: isNormOrBias });
  return { AdamW: adamW, Adam: adam, SGD: sgd }[optimizer]!(camel(options));
}

test.each(golden.cases)(
  'compat official, $name: trained names and all bfloat16 weights equal the package’s',
  (record) => {
    const initial = split(golden.initial);
    const parameters = names.map((name, i) => new Parameter(name, RawTensor.fromBytes(initial[i], shape, 'bfloat16')));
    const options: BlockOptimizerOptions = { ...camel(record.blockOptions), compat: 'official' };
    const optimizer = new BlockOptimizer(base(record.optimizer, record.options), parameters, options);
    expect(optimizer.blocks.map((block) => block.prefixes)).toEqual(record.blocks);
    record.parameters.forEach((after, step) => {
      expect(new Set(record.trained[step].map((i) => names[i]))).toEqual(optimizer.trainable);
      optimizer.learningRate = golden.learningRates[step];
      optimizer.beginStep();
      const gradients = split(golden.gradients[step]).map(floats);
      for (const name of optimizer.trainable) {
        const gradient = tf.tensor(gradients[names.indexOf(name)], shape);
        optimizer.update(name, gradient);
        gradient.dispose();
      }
      optimizer.endStep();
      // The masters differ by a float32 rounding here and there, which 16 bits do not show.
      const expected = split(after);
      parameters.forEach((parameter, i) => expect(parameter.bytes(), `${names[i]}, step ${step}`).toEqual(expected[i]));
    });
    expect(record.parameters.length).toBe(23);
    optimizer.dispose();
    parameters.forEach((parameter) => parameter.dispose());
  },
);
