import { tf } from '@blockwise/tensorflow';

/** Float32 scalars that operations take as inputs, kept between updates: making one costs as much as a small operation. */
export class ScalarSlots {
  private readonly slots = new Map<string, { value: number; tensor: tf.Scalar }>();

  /** The scalar of `value`, borrowed; made anew where the slot's last value was another. */
  get = (slot: string, value: number): tf.Scalar => {
    const held = this.slots.get(slot);
    if (held && Object.is(held.value, value)) return held.tensor;
    held?.tensor.dispose();
    const tensor = tf.keep(tf.scalar(value));
    this.slots.set(slot, { value, tensor });
    return tensor;
  };

  dispose(): void {
    for (const { tensor } of this.slots.values()) tensor.dispose();
    this.slots.clear();
  }
}
