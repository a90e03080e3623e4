import { createBatches, type BatchSource, type Example } from '@blockwise/loaders';
import { rehearse, totalBytes, type Parameter } from '@blockwise/tensorflow';
import { train, type TrainOptions, type TrainParts } from './train.ts';

/** What decides a run's memory. */
export interface MemoryPlanInput {
  /** Opens the model and makes its optimizer as the run will; nothing is computed or allocated by it. The plan disposes of both. */
  prepare: () => Pick<TrainParts, 'model' | 'optimizer'>;
  /** As train() takes them. */
  options: Pick<TrainOptions, 'gradientAccumulationSteps' | 'maxGradNorm' | 'clipGradValue' | 'keptBytes'>;
  /** Sequences in a batch, and tokens in a sequence: the longest bucket. */
  batchSize: number;
  length: number;
  /** Whether examples share rows (BatchOptions.packing): each row then has a mask of its own. */
  packing?: boolean;
  /** Resident before the model is loaded: Node, TensorFlow, data. */
  baseBytes: number;
}

/** Bytes by what they hold, each at its most; `peak` counts the base in. */
export interface MemoryPlan {
  /** Weights at rest, mapped and streamed ones included, and float32 masters. */
  parameters: number;
  gradients: number;
  optimizerStates: number;
  /** What the forward run keeps for the backward run. */
  activations: number;
  /** Temporaries of compiled functions, what the allocator does not give back, and TensorFlow's own part of a step. */
  workspace: number;
  /** Resident at most, where the system drops no page of a mapped file that the run itself keeps: of streamed weights one stage's are there at a time. */
  peak: number;
}

/** A plan, and the two parts of its peak that are not the base. */
export interface PlannedMemory extends MemoryPlan {
  /** Allocated by the process. */
  anonymous: number;
  /** Pages of weights' files and of TensorFlow's code, which the system may drop. */
  fileBacked: number;
}

/**
 * What steps take beside TensorFlow's pool: pages of the library's code, and malloc's and V8's memory (operands that products pack, threads'
 * arenas, what compiling leaves, arrays not collected yet). Not counted one by one: it was 79 to 120 MB in runs of models of 7M to 1.1B
 * parameters on 2 cores, and the same run differs by 20 to 30 MB from time to time.
 */
const besidePool = { code: 50e6, heap: 50e6 };

/**
 * Batches that are rehearsed at least: TensorFlow runs operations in another order each time, and where one leaves its pool in pieces too small
 * for a large tensor, the pool grows for good. After 16 no plan of bench-planner changes by a percent
 * (with AMX's products one, 110M streamed, still does).
 */
const leastBatches = 32;

/**
 * Predicts a run's memory before it starts, by rehearsing steps of it, one for each block and one at least (let a block optimizer switch after
 * every step): the run's own code goes through train() on tensors that have types and shapes but no memory, and TensorFlow's allocator is
 * followed through every tensor that comes and goes. So there is no formula to keep in step with the code. Of BAdam's 2M + 16M/D bytes
 * (arXiv 2404.02827, section 2.2) the first four kinds show their part.
 */
export function planMemory(input: MemoryPlanInput): Promise<PlannedMemory> {
  return rehearse(async (memory) => {
    const { model, optimizer } = input.prepare();
    const enough = Math.ceil(leastBatches / input.options.gradientAccumulationSteps);
    const totalSteps = Math.max(3, enough, 1 + (optimizer.blocks?.length ?? 0));
    const options = { ...input.options, ...timing, totalSteps };
    const done = await train({ model, optimizer, batches: batchesOf(input), options });
    const { resident, bookkeeping, mapped } = memory();
    const all = [...model.parameters.values()];
    const streamed = (some: Iterable<Parameter>) => totalBytes([...some].filter(({ isStreamed }) => isStreamed));
    const aStage = Math.max(...model.stages.map((stage) => streamed(stage.parameters.values())));
    const dropped = streamed(all) - aStage;
    optimizer.dispose();
    model.dispose();
    const { parameterBytes: parameters, gradientBytes: gradients } = done;
    const { stateBytes: optimizerStates, activationBytes: activations } = done;
    const { code, heap } = besidePool;
    const anonymous = Math.round(resident + bookkeeping + heap);
    const fileBacked = Math.round(Math.max(mapped - dropped, aStage) + code);
    const peak = input.baseBytes + anonymous + fileBacked;
    // Activations go as gradients come.
    const known = parameters - dropped + optimizerStates + Math.max(gradients, activations);
    const workspace = Math.max(anonymous + fileBacked - known, 0);
    return { parameters, gradients, optimizerStates, activations, workspace, peak, anonymous, fileBacked };
  });
}

/** What bears on time alone; without a learning rate there would be no weight decay, which takes a temporary of a weight's size. */
const timing = { learningRate: 1, lrSchedulerType: 'constant', warmupSteps: 0, evalSteps: 0, saveSteps: 0 } as const;

/** As many full batches of token 0 as make a step, every position predicted: only their shape counts. */
function batchesOf({ batchSize, length, packing, options }: MemoryPlanInput): BatchSource {
  const example: Example = { inputIds: new Int32Array(length), labels: new Int32Array(length) };
  const examples = new Array<Example>(batchSize * options.gradientAccumulationSteps).fill(example);
  return createBatches(examples, { batchSize, padId: 0, packing: packing ? 'packed' : 'none' });
}
