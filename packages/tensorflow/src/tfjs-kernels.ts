/**
 * The part of @tensorflow/tfjs-node-gpu that needs no compiled addon: the backend class, and (by being imported) its kernels, TensorFlow.js's
 * gradients and chained operations, all registered in the one @tensorflow/tfjs-core of the process. The deep paths pass by the package's
 * index.js, which would load the addon. tools:build-packages inlines these files, so that an installed package never meets its installer.
 */
export { NodeJSKernelBackend } from '@tensorflow/tfjs-node-gpu/dist/nodejs_kernel_backend.js';
import '@tensorflow/tfjs-node-gpu/dist/register_all_kernels.js';
