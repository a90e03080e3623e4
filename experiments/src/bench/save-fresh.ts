/** `save-fresh.ts <job.json> <folder>`: writes the fresh model of a job; a process of its own, so that its memory is nobody else's. */
import { saveFreshLlama } from '@blockwise/model-zoo';
import { initTensorFlow } from '@blockwise/tensorflow';
import { readFileSync } from 'node:fs';
import process from 'node:process';
import type { TrainJob } from './train-job.ts';

const { config, weights, dtype } = JSON.parse(readFileSync(process.argv[2], 'utf8')) as TrainJob;
if ('folder' in weights) throw new Error('internal: these weights are not fresh');
await initTensorFlow();
await saveFreshLlama(process.argv[3], config, { seed: weights.seed, dtype });
