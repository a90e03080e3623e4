const oneProcess = 'one process prepares the data, and computes';
const always = 'that is how it works here anyway';

/**
 * Options of LLaMA-Factory and transformers that their commands carry and that decide nothing here, each with the reason. They are accepted
 * with a warning; all others that are unknown are mistakes.
 */
export const idleOptions: Readonly<Record<string, string>> = {
  badam_verbose: 'each switch of blocks is in run.json',
  dataloader_num_workers: oneProcess,
  ddp_find_unused_parameters: oneProcess,
  ddp_timeout: oneProcess,
  disable_tqdm: 'the bar is drawn on a terminal alone',
  do_eval: '--evaluation_strategy says when',
  flash_attn: 'attention has one form',
  galore_layerwise: 'each gradient is applied as it appears unless --max_grad_norm is above 0',
  include_num_input_tokens_seen: 'tokens are counted',
  log_level: 'messages have one level',
  logging_dir: 'tensorboard/ is in the output folder',
  logging_first_step: 'each step is in run.json',
  logging_strategy: '--logging_steps says when',
  low_cpu_mem_usage: always,
  optim_target_modules: '--galore_target names them',
  preprocessing_batch_size: oneProcess,
  preprocessing_num_workers: oneProcess,
  quantization_method: 'the 4-bit format is NF4, as in bitsandbytes',
  remove_unused_columns: always,
  run_name: 'a run has the name of its output folder',
  save_only_model: 'checkpoints are for resuming',
  save_total_limit: 'all checkpoints are kept',
  tf32: 'float32 is exact',
  tokenized_path: 'tokenised data is kept, and found again, under datasets/cache or --cache_dir',
  trust_remote_code: 'no code is loaded with a model',
  upcast_layernorm: always,
  use_fast_tokenizer: always,
};
