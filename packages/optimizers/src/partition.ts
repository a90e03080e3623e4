import { UserError, didYouMean } from '@blockwise/errors';
import { isNorm } from './weight-decay.ts';

/** Parameters trained together for K steps. */
export interface Block {
  readonly index: number;
  /** As given or derived. */
  readonly prefixes: readonly string[];
  /** Of its parameters. */
  readonly names: readonly string[];
}

/** Which parameters form which block. */
export interface PartitionOptions {
  /**
   * The prefixes of each block; default partitionByLayer(). A prefix matches whole components of a name, from its start or after a dot:
   * `layers.1` matches `model.layers.1.mlp.up_proj.weight` but not `model.layers.10...`.
   */
  blockPrefixList?: readonly (readonly string[])[];
  /** Prefixes of parameters that are always trained, and leave the block that they would be in. Default: none. */
  activeModules?: readonly string[];
  /** Adds the embedding as first block. Default false: it stays frozen. */
  includeEmbedding?: boolean;
  /**
   * Adds as last block all that is neither embedding nor layer: the head and the final norm. A head tied to the embedding is trained with
   * the embedding's block, or in this block where includeEmbedding is false. Default false: frozen.
   */
  includeLmHead?: boolean;
}

/** `model.layers.3.`, `encoder.layer.3.` (BERT's kind), `transformer.h.3.` (GPT-2's), `decoder.block.3.` (T5's). */
const layerPattern = /^((?:.*?\.)?(?:layers?|h|blocks?)\.)(\d+)\./;
const embeddingPattern = /^(?:.*?\.)??(?:[^.]*embed[^.]*|wte|wpe)\./;

/** Whether a name is that of an embedding's weight. */
export const isEmbedding = (name: string): boolean => !layerPattern.test(name) && embeddingPattern.test(name);

/** One block per layer, in the order of their numbers: the official package's default. */
export function partitionByLayer(names: readonly string[]): string[][] {
  return partitionLayers(names, () => ({ part: 'layer', prefix: '' }));
}

const parts = new Map<string, 'attention' | 'mlp'>([
  ['self_attn', 'attention'],
  ['attention', 'attention'],
  ['attn', 'attention'],
  ['mlp', 'mlp'],
  ['feed_forward', 'mlp'],
  // BERT's kind has the two halves of the MLP beside each other.
  ['intermediate', 'mlp'],
  ['output', 'mlp'],
]);

/** Two blocks per layer, attention and MLP. Norms outside of both are in no block, as in the official readme's list. */
export function partitionByAttentionMlp(names: readonly string[]): string[][] {
  return partitionLayers(names, (rest) => {
    const module = rest.slice(0, rest.indexOf('.'));
    const part = parts.get(module);
    return part && { part, prefix: `${module}.` };
  });
}

/** One block per linear module of each layer (weight and bias together). Norms are in no block, as in the official readme's list. */
export function partitionByMatrix(names: readonly string[]): string[][] {
  return partitionLayers(names, (rest) => {
    const prefix = rest.slice(0, rest.lastIndexOf('.') + 1);
    return isNorm(rest) || prefix === '' ? undefined : { part: prefix, prefix };
  });
}

interface Layer {
  stack: string;
  number: number;
  parts: Map<string, Set<string>>;
}

/** `partOf` says to which part of its layer a parameter belongs, by its name inside the layer, and by which prefix. */
function partitionLayers(
  names: readonly string[],
  partOf: (rest: string) => { part: string; prefix: string } | undefined,
): string[][] {
  const layers = new Map<string, Layer>();
  for (const name of names) {
    const match = layerPattern.exec(name);
    const part = match && partOf(name.slice(match[0].length));
    if (!part) continue;
    const layer = layers.get(match[0]) ?? { stack: match[1], number: Number(match[2]), parts: new Map() };
    layers.set(match[0], layer);
    const prefixes = layer.parts.get(part.part) ?? new Set();
    layer.parts.set(part.part, prefixes.add(match[0] + part.prefix));
  }
  // Stacks (an encoder's and a decoder's) in their order in the model; in each, 2 before 10.
  const stacks = [...new Set([...layers.values()].map((layer) => layer.stack))];
  return [...layers.values()]
    .sort((a, b) => stacks.indexOf(a.stack) - stacks.indexOf(b.stack) || a.number - b.number)
    .flatMap((layer) => [...layer.parts.values()].map((prefixes) => [...prefixes]));
}

/**
 * The blocks that the options make of the parameters called `names`, and the names that are always trained.
 * @throws UserError naming every prefix that matches nothing, every parameter in two blocks and every empty block.
 */
export function planBlocks(
  names: readonly string[],
  options: PartitionOptions = {},
): { blocks: Block[]; active: string[] } {
  const { problems, ...plan } = draftBlocks(names, options);
  if (problems.length > 0) throw UserError.of("BlockOptimizer's options", problems);
  return plan;
}

/** planBlocks() with the problems returned, so that they can be reported with others. */
export function draftBlocks(names: readonly string[], options: PartitionOptions) {
  const { activeModules = [] } = options;
  const problems: string[] = [];
  const lists = prefixLists(names, options, problems);
  const active = namesOf(names, activeModules, 'activeModules', problems);
  const always = new Set(active);
  const blocks = lists.map(({ prefixes, origin }, index): Block => {
    if (prefixes.length === 0) problems.push(`${origin} is empty, expected at least one prefix`);
    const found = namesOf(names, prefixes, origin, problems);
    const left = found.filter((name) => !always.has(name));
    if (left.length === 0 && found.length > 0)
      problems.push(`${origin} (${prefixes.join(', ')}) has no parameter left: activeModules take them all`);
    return { index, prefixes: [...prefixes], names: left };
  });
  problems.push(
    ...overlaps(
      blocks,
      lists.map((list) => list.origin),
    ),
  );
  return { blocks, active, problems };
}

/** Every block's prefixes, and where they come from, for messages. */
function prefixLists(names: readonly string[], options: PartitionOptions, problems: string[]) {
  const { blockPrefixList, includeEmbedding = false, includeLmHead = false } = options;
  const listed = (blockPrefixList ?? partitionByLayer(names)).map((prefixes, i) => ({
    prefixes,
    origin: blockPrefixList ? `blockPrefixList[${i}]` : `block ${i} by layer`,
  }));
  if (blockPrefixList?.length === 0) problems.push('blockPrefixList is empty, expected at least one block');
  if (!blockPrefixList && listed.length === 0)
    problems.push(
      `none of the ${names.length} parameter names has a layer number (as in layers.0., layer.0., h.0. or block.0.): give blockPrefixList`,
    );
  const outside = names.filter((name) => !layerPattern.test(name));
  const embeddings = outside.flatMap((name) => embeddingPattern.exec(name)?.[0] ?? []);
  const head = outside.filter((name) => !embeddingPattern.test(name));
  // Where only norms are left, there is no head of its own: it is tied to the embedding.
  if (head.every(isNorm) && !includeEmbedding) head.push(...embeddings);
  const embedding = { prefixes: [...new Set(embeddings)], origin: 'the block of includeEmbedding' };
  const last = { prefixes: [...new Set(head)], origin: 'the block of includeLmHead' };
  return [...(includeEmbedding ? [embedding] : []), ...listed, ...(includeLmHead ? [last] : [])];
}

/** The names that any of the prefixes matches, in the order of `names`. */
function namesOf(names: readonly string[], prefixes: readonly string[], origin: string, problems: string[]): string[] {
  const dotted = names.map((name) => `.${name}.`);
  const found = new Set<number>();
  for (const prefix of prefixes) {
    const part = `.${prefix.replace(/\.$/, '')}.`;
    const hits = dotted.flatMap((name, i) => (part !== '..' && name.includes(part) ? [i] : []));
    hits.forEach((i) => found.add(i));
    if (hits.length === 0)
      problems.push(
        `${origin}: no parameter matches the prefix "${prefix}"${didYouMean(prefix, prefixesOf(names))}; there are ${names.length}, such as ${names[0]}`,
      );
  }
  return [...found].sort((a, b) => a - b).map((i) => names[i]);
}

/** Every beginning of every name that ends with a dot, for near matches. */
function prefixesOf(names: readonly string[]): Set<string> {
  const prefixes = new Set<string>();
  for (const name of names)
    for (let dot = name.indexOf('.'); dot >= 0; dot = name.indexOf('.', dot + 1)) prefixes.add(name.slice(0, dot + 1));
  return prefixes;
}

/** A problem for each pair of blocks that share parameters. */
function overlaps(blocks: readonly Block[], origins: readonly string[]): string[] {
  const owner = new Map<string, number>();
  const shared = new Map<string, string[]>();
  for (const { index, names } of blocks)
    for (const name of names) {
      const first = owner.get(name);
      if (first === undefined) owner.set(name, index);
      else {
        const pair = `${origins[first]} and ${origins[index]}`;
        shared.set(pair, [...(shared.get(pair) ?? []), name]);
      }
    }
  return [...shared].map(([pair, names]) => {
    const more = names.length > 1 ? ` and ${names.length - 1} more` : '';
    return `${pair} both contain ${names[0]}${more}: a parameter belongs to one block`;
  });
}
