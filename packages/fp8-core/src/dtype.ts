/** One row of the dtype table; mirrored by packages/fp8-kernels/native/tensor.h. */
export interface DTypeInfo {
  /** The number that the native backends know it by. */
  readonly code: number;
  readonly bytes: number;
  /** Largest finite value. */
  readonly max: number;
  /** Scaled dtypes carry a scale block: stored = value * scale. */
  readonly scaled: boolean;
  /** The dtype's name in a safetensors file. */
  readonly safetensors: string;
}

export const dtypes = {
  f32: { code: 0, bytes: 4, max: 3.4028234663852886e38, scaled: false, safetensors: 'F32' },
  bf16: { code: 1, bytes: 2, max: 3.3895313892515355e38, scaled: false, safetensors: 'BF16' },
  f16: { code: 2, bytes: 2, max: 65504, scaled: true, safetensors: 'F16' },
  e4m3: { code: 3, bytes: 1, max: 448, scaled: true, safetensors: 'F8_E4M3' },
  e5m2: { code: 4, bytes: 1, max: 57344, scaled: true, safetensors: 'F8_E5M2' },
  i32: { code: 5, bytes: 4, max: 2147483647, scaled: false, safetensors: 'I32' },
  u16: { code: 6, bytes: 2, max: 65535, scaled: false, safetensors: 'U16' },
  u8: { code: 7, bytes: 1, max: 255, scaled: false, safetensors: 'U8' },
} as const satisfies Record<string, DTypeInfo>;

export type DType = keyof typeof dtypes;
export type FloatDType = 'f32' | 'bf16' | 'f16' | 'e4m3' | 'e5m2';
export type Fp8DType = 'e4m3' | 'e5m2';
/** Dtypes of activations between ops. */
export type ActDType = 'f32' | 'bf16';

/** Slots of a scale block: [scale, scaleInv, amax, saturated]. */
export const scaleSlot = { scale: 0, scaleInv: 1, amax: 2, saturated: 3, size: 4 } as const;
/** Slots of an amax window: [count, scale, amax of the running step, 15 earlier amaxes]. */
export const windowSlot = { count: 0, scale: 1, amax: 2, history: 3, size: 18, length: 16 } as const;
