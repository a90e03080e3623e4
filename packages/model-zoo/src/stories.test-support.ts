import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** For tests only: the folder of stories260K in the real data (BLOCKWISE_DATA, or shared/data beside the checkout), and whether it is there. */
const data = process.env.BLOCKWISE_DATA ?? fileURLToPath(new URL('../../../../shared/data', import.meta.url));
export const stories = `${data}/models/stories260K`;
export const haveStories = existsSync(stories);
if (!haveStories) console.log(`skipped: ${stories} is missing (set BLOCKWISE_DATA)`);
