import { isObject, UserError } from '@blockwise/errors';
import { takeFloat32, tf, toRaw } from '@blockwise/tensorflow';
import { notNegative } from './option-checks.ts';
import type { JsonObject, JsonValue } from './optimizer.ts';

/** Options of lomo-optim's DynamicLossScaler (its `loss_scale_args`). */
export interface LossScaleOptions {
  /** Default 2^32: the first steps find the largest scale that fits. */
  initScale?: number;
  /** What the scale is divided by on overflow, and multiplied by when it grows; default 2. */
  scaleFactor?: number;
  /** The scale grows after this many steps without overflow; default 1000. */
  scaleWindow?: number;
  /** It never falls below this; default 1. */
  minScale?: number;
  /** How many overflows it takes to lower the scale; default 1. */
  delayedShift?: number;
  /** Whether one good step forgets earlier overflows that did not lower the scale yet; default false: only growth does. */
  consecutiveHysteresis?: boolean;
  /** Whether an overflow at minScale is an error; default true. */
  raiseErrorAtMinScale?: boolean;
}

/**
 * Loss scaling for float16 weights, as lomo-optim's DynamicLossScaler does it (lomo_optim/lomo.py). Gradients are computed in float32 here;
 * throughFloat16() gives them float16's range and precision: scaled, rounded, scaled back. A step whose gradients overflow is skipped and
 * lowers the scale. The official optimizer never reports a good step, so its scale never grows; here it does.
 */
export class DynamicLossScaler {
  private readonly options: Required<LossScaleOptions>;
  private current: { scale: number; step: number; lastOverflow: number; hysteresis: number };

  /** @throws UserError for options out of range. */
  constructor(options: LossScaleOptions = {}) {
    const { initScale = 2 ** 32, scaleFactor = 2, scaleWindow = 1000, minScale = 1, delayedShift = 1 } = options;
    const { consecutiveHysteresis = false, raiseErrorAtMinScale = true } = options;
    const problems = notNegative({ initScale, scaleFactor, minScale });
    if (initScale === 0) problems.push('initScale is 0, expected a positive number');
    if (scaleFactor <= 1) problems.push(`scaleFactor is ${scaleFactor}, expected a number above 1`);
    for (const [name, value] of Object.entries({ scaleWindow, delayedShift }))
      if (!Number.isSafeInteger(value) || value < 1) problems.push(`${name} is ${value}, expected an integer from 1`);
    if (problems.length > 0) throw UserError.of("the loss scale's options", problems);
    const switches = { consecutiveHysteresis, raiseErrorAtMinScale };
    this.options = { initScale, scaleFactor, scaleWindow, minScale, delayedShift, ...switches };
    this.current = { scale: initScale, step: 0, lastOverflow: -1, hysteresis: delayedShift };
  }

  /** What the loss of the step in hand is multiplied by. */
  get scale(): number {
    return this.current.scale;
  }

  /** The gradient as float16 holds it while the loss is scaled: infinite where it overflows. Borrows it, returns a new tensor. */
  throughFloat16(gradient: tf.Tensor): tf.Tensor {
    return tf.tidy(() => {
      const rounded = takeFloat32(toRaw(tf.mul(gradient, this.scale), 'float16'));
      return tf.mul(rounded, 1 / this.scale);
    });
  }

  /**
   * Ends a step; `overflow`: its gradients were not finite, and it was skipped.
   * @throws UserError for an overflow at minScale (see raiseErrorAtMinScale)
   */
  update(overflow: boolean): void {
    const { scaleFactor, scaleWindow, minScale, delayedShift, consecutiveHysteresis } = this.options;
    const { current } = this;
    if (overflow) {
      if (current.hysteresis > 1) current.hysteresis--;
      else this.lower(minScale, scaleFactor);
      current.lastOverflow = current.step;
    } else {
      const grows = (current.step - current.lastOverflow) % scaleWindow === 0;
      if (grows) current.scale *= scaleFactor;
      if (grows || consecutiveHysteresis) current.hysteresis = delayedShift;
    }
    current.step++;
  }

  private lower(minScale: number, scaleFactor: number): void {
    if (this.scale === minScale && this.options.raiseErrorAtMinScale)
      throw new UserError(
        `float16 gradients overflow although the loss scale is at its minimum of ${minScale}: training stopped. Use a lower learning rate, or bfloat16 weights, which need no loss scale`,
      );
    this.current.scale = Math.max(this.scale / scaleFactor, minScale);
  }

  /** All that a resumed run needs. */
  state(): JsonObject {
    return { ...this.current };
  }

  /** Takes up where state() was called; returns what is wrong with the state, in words, and changes nothing then. */
  restore(state: JsonValue | undefined): string[] {
    const wanted = Object.keys(this.current);
    if (!isObject(state)) return ['it has no loss scale'];
    const problems = wanted
      .filter((key) => !Number.isFinite(state[key]))
      .map((key) => `lossScale.${key} is ${JSON.stringify(state[key])}, not a number`);
    if (problems.length === 0)
      this.current = Object.fromEntries(wanted.map((key) => [key, state[key]])) as typeof this.current;
    return problems;
  }
}
