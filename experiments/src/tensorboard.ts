import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';

/** Writes scalars that TensorBoard shows. */
export interface TensorBoardWriter {
  /** One event with all `scalars` (tag to value) of a step. */
  scalars(step: number, scalars: Readonly<Record<string, number>>): void;
  close(): void;
}

/**
 * Opens a new event file in `folder`. In a resumed run (`doneSteps` above 0) its first event makes TensorBoard forget what
 * an earlier file of the folder says of later steps.
 *
 * Format: records (length, masked CRC-32C, bytes, masked CRC-32C) of `Event` messages as in tensorflow/core/util/event.proto.
 */
export function openTensorBoard(folder: string, doneSteps = 0): TensorBoardWriter {
  mkdirSync(folder, { recursive: true });
  const now = Date.now();
  const file = openSync(
    join(folder, `events.out.tfevents.${Math.floor(now / 1000)}.${hostname()}.${process.pid}.${now % 1000}`),
    'wx',
  );
  const write = (event: Buffer) => void writeSync(file, record(event));
  write(Buffer.concat([wallTime(), bytesField(3, Buffer.from('brain.Event:2'))]));
  // SessionLog { status: START }
  if (doneSteps > 0) write(Buffer.concat([wallTime(), intField(2, doneSteps + 1), bytesField(7, intField(1, 1))]));
  return {
    scalars(step, scalars) {
      const values = Object.entries(scalars).map(([tag, value]) =>
        bytesField(1, Buffer.concat([bytesField(1, Buffer.from(tag)), floatField(2, value)])),
      );
      write(Buffer.concat([wallTime(), intField(2, step), bytesField(5, Buffer.concat(values))]));
    },
    close: () => closeSync(file),
  };
}

/** Protocol buffers' wire types. */
const varint = 0;
const fixed64 = 1;
const lengthDelimited = 2;
const fixed32 = 5;

function wallTime(): Buffer {
  const value = Buffer.alloc(8);
  value.writeDoubleLE(Date.now() / 1000);
  return Buffer.concat([key(1, fixed64), value]);
}

function intField(field: number, value: number): Buffer {
  return Buffer.concat([key(field, varint), encodeVarint(value)]);
}

function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([key(field, fixed32), bytes]);
}

function bytesField(field: number, bytes: Buffer): Buffer {
  return Buffer.concat([key(field, lengthDelimited), encodeVarint(bytes.length), bytes]);
}

function key(field: number, wireType: number): Buffer {
  return encodeVarint(field * 8 + wireType);
}

function encodeVarint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest % 128) + 128);
  }
}

function record(data: Buffer): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(data.length));
  return Buffer.concat([length, maskedChecksum(length), data, maskedChecksum(data)]);
}

/** TFRecord's checksum: CRC-32C rotated right by 15 bits, plus a constant. */
function maskedChecksum(data: Buffer): Buffer {
  const crc = crc32c(data);
  const masked = Buffer.alloc(4);
  masked.writeUInt32LE((((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0);
  return masked;
}

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

/** CRC-32C (Castagnoli), as in RFC 3720 appendix B.4. */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = crcTable[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
