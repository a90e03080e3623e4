import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The root of the workspace. */
export const repository = fileURLToPath(new URL('../..', import.meta.url));

/** The model and the instructions that the repository itself holds; made by tools/src/embedded. */
export const embedded = {
  model: join(repository, 'datasets/embedded/model'),
  dataset: join(repository, 'datasets/embedded/instructions.json'),
};

/** Real data and weights for comparisons and tests: BLOCKWISE_DATA, or shared/data beside the checkout, where there is one. */
export const sharedData = process.env.BLOCKWISE_DATA ?? join(repository, '../shared/data');
