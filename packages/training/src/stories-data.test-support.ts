import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The folder of real data and weights for tests (BLOCKWISE_DATA, or shared/data beside the checkout), where there is one. */
export const dataFolder =
  process.env.BLOCKWISE_DATA ?? fileURLToPath(new URL('../../../../shared/data', import.meta.url));
export const hasData = existsSync(dataFolder);
if (!hasData) console.log(`skipping tests on real data: ${dataFolder} is missing (set BLOCKWISE_DATA)`);
