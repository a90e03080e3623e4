import type { Kind } from './option-kinds.ts';

/** Every value of --finetuning_type. */
export const finetuningTypes = [
  ...(['block', 'full', 'freeze', 'lora', 'qlora', 'sparse', 'lomo', 'adalomo', 'galore', 'bitnet'] as const),
] as const;
export type FinetuningType = (typeof finetuningTypes)[number];

/** What may bring a default of its own: a method, or LLaMA-Factory's --use_badam in one of its modes. */
export type Way = FinetuningType | 'badam_mode layer' | 'badam_mode ratio';

/** One option: parser, help, default and saved config all derive from this record. */
export interface Option<T> {
  readonly topic: string;
  readonly kind: Kind<T>;
  readonly default: T;
  /** The default while the embedded model trains, where the general one would not suit so small a model. */
  readonly embedded?: T;
  /** The default of a method, where the others' would not suit it, and LLaMA-Factory's under its own flags; goes before `embedded`. */
  readonly of?: Partial<Record<Way, T>>;
  /** The methods that it says anything to; default all. With the others it keeps its default, whatever is typed. */
  readonly only?: readonly FinetuningType[];
  /** Whether a run that goes on may have another value: no result depends on it, or its part in that is compared otherwise (the data by what was read, lengths in steps). */
  readonly mayChange?: true;
  /** What the value counts, for help. */
  readonly unit?: string;
  readonly help: string;
  /** Other names, as typed, that mean the same. */
  readonly aliases?: readonly string[];
}

/** An option's record from its parts. */
export function option<T>(
  topic: string,
  kind: Kind<T>,
  value: { default: NoInfer<T> } & Partial<
    Pick<Option<NoInfer<T>>, 'embedded' | 'of' | 'only' | 'mayChange' | 'unit' | 'aliases'>
  >,
  help: string,
): Option<T> {
  return { topic, kind, ...value, help };
}
