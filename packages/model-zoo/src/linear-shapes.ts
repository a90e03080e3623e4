import type { Stage } from './stages.ts';

/** [outputs, inputs] of each linear module of a stage, by its name in the stage and in the order in which the stage calls them. */
export function linearShapes(stage: Stage): ReadonlyMap<string, readonly [outputs: number, inputs: number]> {
  if (stage.linearShapes) return stage.linearShapes;
  const shapes = new Map<string, readonly [number, number]>();
  for (const [name, { shape }] of stage.parameters)
    if (name.endsWith('.weight') && shape.length === 2)
      shapes.set(name.slice(0, -'.weight'.length), [shape[0], shape[1]]);
  return shapes;
}
