import { maskModes, switchModes } from '@blockwise/optimizers';
import { choice, flag, integer, integerOr, names, orNull, path, pathOrName, real } from './option-kinds.ts';
import { finetuningTypes, option, type FinetuningType } from './option.ts';

const method = 'Method: which parameters train when';
const factory = "Method, as LLaMA-Factory's commands say it";
const freeze = 'Method: freeze';
const lora = 'Method: lora and qlora';
const sparse = 'Method: sparse';
const galore = 'Method: galore';

const adapters = ['lora', 'qlora'] as const;
/** Methods that may train a block at a time. */
const inBlocks = ['block', ...adapters] as const;
/** Methods whose trained weights are the model's own, in its storage dtype. */
const whole = finetuningTypes.filter((type) => type !== 'lora' && type !== 'qlora');
const only = (...types: FinetuningType[]) => ({ only: types });

/**
 * The options of the methods, each under its name in the code. Names and defaults are the official packages' and LLaMA-Factory's; where
 * the two differ, as for BAdam, LLaMA-Factory's defaults come with its own flag (--use_badam).
 */
export const methodOptions = {
  finetuningType: option(
    method,
    choice(finetuningTypes),
    { default: 'block', aliases: ['method'] },
    'block is BAdam: one block at a time; full: all parameters together; freeze: some layers; lora, qlora: low-rank adapters beside frozen ' +
      '(4-bit) weights; sparse: a part of every weight (BlockOptimizerRatio); lomo, adalomo: all, updated as their gradients appear; ' +
      'galore: all, with low-rank states; bitnet: ternary weights (b1.58).',
  ),
  pureBf16: option(
    method,
    flag,
    { default: false, only: ['block', 'full', 'freeze', 'sparse', 'galore', 'bitnet'] },
    'Keep no float32 masters: each weight is float32 for its update alone and rounded back, which takes half the memory and loses small ' +
      'updates (less with stochastic_rounding).',
  ),
  stochasticRounding: option(
    method,
    flag,
    { default: false, only: whole },
    'Round to bfloat16 at random in proportion, so that updates below its precision survive on average.',
  ),
  compat: option(
    method,
    choice(['paper', 'official']),
    { default: 'paper', only: inBlocks },
    "paper follows Algorithm 1; official repeats the badam package's quirks (K-1 steps on the first block, weight decay on norms).",
  ),

  switchBlockEvery: option(
    method,
    integerOr('auto', { min: 1 }),
    {
      default: 'auto',
      embedded: 25,
      of: { 'badam_mode layer': 50 },
      unit: 'steps',
      only: [...inBlocks, 'sparse'],
      aliases: ['badam_switch_interval', 'switch_every'],
      mayChange: true,
    },
    "The paper's K: steps on a block before the next takes over. auto is n/(B D), clipped to 50..100 (n examples, B a step, D blocks); sparse: 100. " +
      '-1 is auto, and with use_badam, as in LLaMA-Factory, never.',
  ),
  switchMode: option(
    method,
    choice(switchModes),
    { default: 'random', of: { 'badam_mode layer': 'ascending' }, only: inBlocks, aliases: ['badam_switch_mode'] },
    'Order of the blocks; random is a new order each block-epoch, fixed stays with the first block.',
  ),
  startBlock: option(
    method,
    orNull(integer({ min: 0 })),
    { default: null, unit: 'block index', only: inBlocks, aliases: ['badam_start_block'] },
    "The first block; by default the order's own first (fixed: block 0).",
  ),
  blockPartition: option(
    method,
    choice(['layer', 'attention_mlp', 'matrix']),
    { default: 'layer', only: inBlocks },
    "What a block is: a transformer layer, a layer's self_attn or mlp, or a single matrix.",
  ),
  includeEmbedding: option(
    method,
    flag,
    { default: false, ...only('block', 'sparse') },
    'The embedding is a block too (sparse: is trained too).',
  ),
  includeLmHead: option(
    method,
    flag,
    { default: false, ...only('block', 'sparse') },
    'The language modeling head is a block too (sparse: is trained too).',
  ),

  useBadam: option(
    factory,
    flag,
    { default: false, mayChange: true },
    'full becomes block, or sparse with badam_mode ratio; lora and qlora train the adapters of one block at a time. ' +
      "Defaults of BAdam's options are then LLaMA-Factory's.",
  ),
  badamMode: option(
    factory,
    choice(['layer', 'ratio']),
    { default: 'layer', mayChange: true },
    'What use_badam means by blocks.',
  ),
  useGalore: option(factory, flag, { default: false, mayChange: true }, 'full becomes galore.'),
  useAdamMini: option(factory, flag, { default: false, mayChange: true }, 'The same as optim adam_mini.'),
  quantizationBit: option(
    factory,
    orNull(integer({ min: 4, max: 4 })),
    { default: null, unit: 'bits', mayChange: true },
    'lora becomes qlora: the frozen weights are kept in so many bits.',
  ),

  freezeTrainableLayers: option(
    freeze,
    integer(),
    { default: 2, unit: 'layers', ...only('freeze') },
    'The last so many layers train; negative: the first so many.',
  ),
  freezeTrainableModules: option(
    freeze,
    names,
    { default: ['all'], ...only('freeze') },
    'Only these modules of them (self_attn, mlp, input_layernorm, ...); all for all.',
  ),
  freezeExtraModules: option(
    freeze,
    orNull(names),
    { default: null, ...only('freeze') },
    'Modules outside of the layers that train too (embed_tokens, norm, lm_head).',
  ),

  adapterNameOrPath: option(
    lora,
    orNull(pathOrName),
    { default: null, only: adapters },
    'A PEFT adapter to go on from, a folder or a hub id; its adapter_config.json stands for the options of fresh ones. With do_train false, export_dir merges it.',
  ),
  loraRank: option(lora, integer({ min: 1 }), { default: 8, only: adapters }, 'Rank of the adapters.'),
  loraAlpha: option(
    lora,
    orNull(real({ min: 0 })),
    { default: null, only: adapters },
    "The adapters' product is scaled by lora_alpha / lora_rank; by default twice the rank.",
  ),
  loraDropout: option(
    lora,
    real({ min: 0, below: 1 }),
    { default: 0, unit: 'share of the inputs', only: adapters },
    'Dropout of what goes into an adapter, while training.',
  ),
  loraTarget: option(
    lora,
    names,
    { default: ['all'], only: adapters },
    'Modules that get an adapter (q_proj, v_proj, ...); all: every linear module but the head.',
  ),
  additionalTarget: option(
    lora,
    orNull(names),
    { default: null, only: adapters },
    'Modules that train whole and are saved with the adapters (embed_tokens, lm_head).',
  ),
  loraBias: option(
    lora,
    choice(['none', 'all', 'lora_only']),
    { default: 'none', only: adapters },
    "Which biases train: none, all, or those of the adapters' modules.",
  ),
  useRslora: option(
    lora,
    flag,
    { default: false, only: adapters },
    'Rank-stabilised: scale by lora_alpha / sqrt(lora_rank).',
  ),
  doubleQuantization: option(
    lora,
    flag,
    { default: true, ...only('qlora') },
    'Quantise the scales of the 4-bit blocks too.',
  ),
  loraOnly: option(
    lora,
    flag,
    { default: true, ...only('lora') },
    "false trains the weights beside the adapters too, by LOMO, as LOMO's repository does.",
  ),
  lomoLearningRate: option(
    lora,
    real({ min: 0 }),
    { default: 0.03, ...only('lora') },
    'The learning rate of those weights, at the height of the schedule.',
  ),
  exportDir: option(
    lora,
    orNull(path),
    { default: null, ...only(...adapters, 'bitnet'), mayChange: true },
    'Folder for another form of what model/ holds: the model with its adapters merged into the weights; a BitNet packed to 2 bits.',
  ),

  updateRatio: option(
    sparse,
    real({ min: 0, max: 1 }),
    {
      ...{ default: 0.1, of: { 'badam_mode ratio': 0.05 }, unit: 'share of a weight' },
      ...{ ...only('sparse'), aliases: ['badam_update_ratio'] },
    },
    'How much of every weight trains at a time.',
  ),
  maskMode: option(
    sparse,
    choice(maskModes),
    { default: 'adjacent', ...only('sparse'), aliases: ['badam_mask_mode'] },
    'Which entries: neighbours, or drawn at random.',
  ),
  preserveThreshold: option(
    sparse,
    integer({ min: 0 }),
    { default: 100, unit: 'entries', ...only('sparse') },
    'Weights of fewer entries train whole.',
  ),
  keepMask: option(
    sparse,
    flag,
    { default: true, ...only('sparse') },
    'Keep the entries of a turn in memory; false works them out again at each step.',
  ),

  galoreRank: option(galore, integer({ min: 1 }), { default: 16, ...only('galore') }, 'Rank of the projection.'),
  galoreUpdateInterval: option(
    galore,
    integer({ min: 1 }),
    { default: 200, unit: 'steps', ...only('galore') },
    'Steps between two projections (a singular value decomposition of each gradient).',
  ),
  galoreScale: option(galore, real({ min: 0 }), { default: 2, ...only('galore') }, 'Factor of the projected updates.'),
  galoreProjType: option(
    galore,
    choice(['std', 'reverse_std', 'right', 'left', 'full']),
    { default: 'std', ...only('galore') },
    'Which side is projected: std the shorter one, reverse_std the longer one.',
  ),
  galoreTarget: option(
    galore,
    names,
    { default: ['all'], ...only('galore') },
    'Modules whose gradients are projected, by parts of their names (mlp, q_proj); all: every linear module but the head. The others have whole states.',
  ),
} as const;
