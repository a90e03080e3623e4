/** Where a dataset name leads: a hub dataset, and which of its files. */
export interface NamedDataset {
  repo: string;
  /** Only the data files whose name starts with this, in repositories that hold several datasets. */
  subset?: string;
  /** The split to take; `train` when not given. */
  split?: string;
}

/**
 * The names of LLaMA-Factory's data/dataset_info.json (which the BAdam readme's commands use) whose hub files are in Alpaca or
 * ShareGPT shape and need no renaming of columns.
 */
export const datasetNames: Readonly<Record<string, NamedDataset>> = {
  alpaca_en_demo: { repo: 'llamafactory/demo_data', subset: 'alpaca_en_demo' },
  alpaca_zh_demo: { repo: 'llamafactory/demo_data', subset: 'alpaca_zh_demo' },
  alpaca_en: { repo: 'llamafactory/alpaca_en' },
  alpaca_zh: { repo: 'llamafactory/alpaca_zh' },
  alpaca_gpt4_en: { repo: 'llamafactory/alpaca_gpt4_en' },
  alpaca_gpt4_zh: { repo: 'llamafactory/alpaca_gpt4_zh' },
  lima: { repo: 'llamafactory/lima' },
  codealpaca: { repo: 'sahil2801/CodeAlpaca-20k' },
  open_platypus: { repo: 'garage-bAInd/Open-Platypus' },
  mathinstruct: { repo: 'TIGER-Lab/MathInstruct' },
  slimorca: { repo: 'Open-Orca/SlimOrca' },
  open_thoughts: { repo: 'llamafactory/OpenThoughts-114k' },
  ultrachat_200k: { repo: 'HuggingFaceH4/ultrachat_200k', split: 'train_sft' },
};

const extensions = ['.parquet', '.jsonl', '.json'] as const;
/** JSON files that describe a dataset rather than hold it. */
const notData = /^(dataset_infos?|.*config|package(-lock)?|state|\..*)\.json$/i;
const otherSplits = /(^|[/_.-])(test|valid|validation|val|dev|eval)([/_.-]|$)/i;

/**
 * The data files of a dataset's file list: of one format (the most frequent one; parquet, then jsonl, where equal) and one split.
 * A file belongs to a split when a part of its path says so, as on the hub; where no file names the split, all files do that
 * name no other one.
 *
 * @param paths file paths inside the repository or folder
 * @returns a sorted part of `paths`, empty where none fits
 */
export function selectDataFiles(
  paths: readonly string[],
  { subset, split = 'train' }: Partial<NamedDataset> = {},
): string[] {
  const nameOf = (path: string) => path.slice(path.lastIndexOf('/') + 1);
  const data = paths.filter((path) => {
    const inSubset = subset === undefined || path.split('/').some((part) => part.startsWith(subset));
    return inSubset && extensions.some((end) => path.endsWith(end)) && !notData.test(nameOf(path));
  });
  // A dataset_info.json may say anything: it is a name, not a pattern.
  const name = split.replace(/[^\w]/g, '\\$&');
  const named = data.filter((path) => new RegExp(`(^|[/_.-])${name}([/_.-]|$)`, 'i').test(path));
  const ofSplit = named.length > 0 ? named : data.filter((path) => !otherSplits.test(path));
  const byFormat = extensions.map((end) => ofSplit.filter((path) => path.endsWith(end)));
  return byFormat.reduce((best, files) => (files.length > best.length ? files : best), []).sort();
}
