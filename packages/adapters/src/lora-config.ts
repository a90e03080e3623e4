import { didYouMean } from '@blockwise/errors';

/** Options of an adapter, named and meant as in PEFT's LoraConfig. */
export interface LoraConfig {
  /** Rank of the update: columns of B and rows of A. */
  readonly r: number;
  /** The update is scaled by loraAlpha / r. */
  readonly loraAlpha: number;
  /** Probability with which an element of an adapter's input is dropped in training. */
  readonly loraDropout: number;
  /**
   * Linear modules that get an adapter: ends of their names (`q_proj`, `self_attn.q_proj`), a regular expression that matches a whole name
   * (`.*layers\.[01]\..*_proj`; Python's syntax, as in PEFT's files), or 'all-linear': every one but the head.
   */
  readonly targetModules: readonly string[] | string;
  /** Modules among them that get none: ends of their names or a regular expression; names that match nothing are nobody's mistake, as in PEFT. */
  readonly excludeModules: readonly string[] | string;
  /** Biases that are trained too: none, all of the model's, or those of adapted modules. */
  readonly bias: 'none' | 'all' | 'lora_only';
  /** Rank-stabilised: the update is scaled by loraAlpha / sqrt(r) instead (arXiv 2312.03732). */
  readonly useRslora: boolean;
  /** Modules trained in full, as copies: ends of their names (`embed_tokens`, `lm_head`, `norm`, which every norm's name ends with). */
  readonly modulesToSave: readonly string[];
  /** Layers, from 0, whose modules named in targetModules are adapted; none for all. */
  readonly layersToTransform: readonly number[];
  /**
   * true: A is uniform within 1 / sqrt(inputs) (He's uniform with a = sqrt(5)), B is 0, so the adapter changes nothing at first;
   * 'gaussian': A is normal with deviation 1 / r, B is 0; false: both are uniform, B within 1 / sqrt(r).
   */
  readonly initLoraWeights: boolean | 'gaussian';
}

/** What applies where an option is not given: PEFT's defaults, and its target modules for Llama. */
export const loraDefaults: LoraConfig = {
  r: 8,
  loraAlpha: 8,
  loraDropout: 0,
  targetModules: ['q_proj', 'v_proj'],
  excludeModules: [],
  bias: 'none',
  useRslora: false,
  modulesToSave: [],
  layersToTransform: [],
  initLoraWeights: true,
};

/** s in y = W x + s B A x. */
export const loraScaling = ({ r, loraAlpha, useRslora }: LoraConfig) => loraAlpha / (useRslora ? Math.sqrt(r) : r);

/** A line for each option that is wrong whatever the model is. */
export function loraConfigProblems(config: LoraConfig): string[] {
  const { r, loraAlpha, loraDropout, targetModules, bias, layersToTransform, initLoraWeights } = config;
  const checks: [right: boolean, problem: string][] = [
    [Number.isSafeInteger(r) && r >= 1, `r is ${r}, expected a whole number from 1`],
    [Number.isFinite(loraAlpha), `loraAlpha is ${loraAlpha}, expected a number`],
    [loraDropout >= 0 && loraDropout < 1, `loraDropout is ${loraDropout}, expected a number in [0, 1)`],
    [['none', 'all', 'lora_only'].includes(bias), `bias is ${JSON.stringify(bias)}, expected none, all or lora_only`],
    [
      [true, false, 'gaussian'].includes(initLoraWeights),
      `initLoraWeights is ${JSON.stringify(initLoraWeights)}, expected true, false or gaussian`,
    ],
    [
      layersToTransform.length === 0 || typeof targetModules !== 'string',
      'layersToTransform goes with a list of targetModules: name the layers in the regular expression instead',
    ],
  ];
  const known = Object.keys(loraDefaults);
  const unknown = Object.keys(config).filter((name) => !known.includes(name));
  return [
    ...unknown.map((name) => `there is no option ${name}${didYouMean(name, known)}; there are ${known.join(', ')}`),
    ...checks.filter(([right]) => !right).map(([, problem]) => problem),
  ];
}
