import {
  adaLomoOf,
  adapters,
  blockwise,
  galoreOf,
  lomoOf,
  sparse,
  together,
  type CreateOptimizer,
} from './create-optimizer.ts';
import { openBitnet, openFrozen, openLora, openQlora, openWhole, type OpenModel } from './open-model.ts';
import type { FinetuningType } from './option.ts';

/** What sets one --finetuning_type apart: the model that it trains, and its optimizer. The loop is the same for all. */
export interface Method {
  open: OpenModel;
  optimizer: CreateOptimizer;
  /** Its checkpoints hold adapters, not the weights that they adapt. */
  leavesBase?: true;
}

/** Every --finetuning_type. */
export const methods: Record<FinetuningType, Method> = {
  block: { open: openWhole, optimizer: blockwise },
  full: { open: openWhole, optimizer: together() },
  freeze: { open: openFrozen, optimizer: together() },
  lora: { open: openLora, optimizer: adapters, leavesBase: true },
  qlora: { open: openQlora, optimizer: adapters, leavesBase: true },
  sparse: { open: openWhole, optimizer: sparse },
  lomo: { open: openWhole, optimizer: together(lomoOf) },
  adalomo: { open: openWhole, optimizer: together(adaLomoOf) },
  galore: { open: openWhole, optimizer: together(galoreOf) },
  bitnet: { open: openBitnet, optimizer: together() },
};
