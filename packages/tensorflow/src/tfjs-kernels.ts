import type * as tf from '@tensorflow/tfjs-core';
import { NodeJSKernelBackend } from '@tensorflow/tfjs-node-gpu/dist/nodejs_kernel_backend.js';
import '@tensorflow/tfjs-node-gpu/dist/register_all_kernels.js';

/**
 * The part of @tensorflow/tfjs-node-gpu that needs no compiled addon. Importing this file registers its kernels, and TensorFlow.js's gradients
 * and chained operations, in the process's one @tensorflow/tfjs-core. The deep paths pass by the package's index.js, which would load
 * the addon; tools:build-packages inlines what they reach, so an installed @blockwise/tensorflow never meets that package's installer.
 */

/** The TensorFlow.js backend of those kernels over `binding`, an object with the addon's interface. */
export function createKernelBackend(binding: object): tf.KernelBackend {
  return new NodeJSKernelBackend(binding as never, '@blockwise/tensorflow') as unknown as tf.KernelBackend;
}
