/**
 * Inputs of `predict` on their way to Rust, and results on their way back: JSON, and the bytes of typed arrays beside it. The other side is
 * `crates/pillion-node/src/predict.rs`.
 */

import { PillionError, errorFromData, invalidArgument, type ErrorData } from './errors'
import { kinds, toJson } from './options'

/** The typed arrays that cross as bytes. */
export type TypedArray =
  | Uint8Array
  | Uint8ClampedArray
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | BigUint64Array
  | BigInt64Array
  | Float32Array
  | Float64Array

/**
 * An array of any number of dimensions. One of one dimension comes back as its typed array alone. The memory of a large one that comes back was made
 * outside of V8 and cannot be transferred to another thread; a copy of it (`slice()`) can.
 */
export interface Tensor {
  /** The elements in C order: the last index changes fastest. */
  readonly data: TypedArray
  /** The sizes of the dimensions. */
  readonly shape: readonly number[]
}

/** What became of one input. */
export type PredictResult<O = unknown> =
  { readonly ok: true; readonly value: O } | { readonly ok: false; readonly error: PillionError }

/** The inputs of one call as Rust takes them. */
export interface PackedInputs {
  /** JSON of all inputs, without their tensors. */
  readonly items: string
  /** JSON of the tensors' names; `null` for one that is its whole input. */
  readonly names: string
  /** Per tensor: its input, its dtype's number, how many dimensions it has, and their sizes. */
  readonly table: Uint32Array
  /** Per tensor. */
  readonly data: Uint8Array[]
}

// The numbers are those of `Dtype` in `crates/pillion-core/src/forward.rs`.
const dtypes: Readonly<Record<string, number>> = {
  Uint8Array: 1,
  Uint8ClampedArray: 1,
  Int8Array: 2,
  Uint16Array: 3,
  Int16Array: 4,
  Uint32Array: 5,
  Int32Array: 6,
  BigUint64Array: 7,
  BigInt64Array: 8,
  Float32Array: 9,
  Float64Array: 10,
}

const constructors = {
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  uint32: Uint32Array,
  int32: Int32Array,
  uint64: BigUint64Array,
  int64: BigInt64Array,
  float32: Float32Array,
  float64: Float64Array,
  bool: Uint8Array,
} as const

/** Where a tensor lies: in the bytes beside the text, or it is one of the large ones. */
type Place = { readonly offset: number; readonly length: number } | { readonly large: number }

/** What Rust says of one result. */
type Described =
  | { readonly ok: false; readonly error: ErrorData }
  | {
      readonly ok: true
      readonly value: unknown
      readonly tensors: readonly {
        readonly name: string | null
        readonly dtype: keyof typeof constructors
        readonly shape: readonly number[]
        readonly place: Place
      }[]
    }

/**
 * Takes inputs apart. Refuses what JSON would change without a word.
 * @param name how they are called in messages
 */
export function packInputs(inputs: readonly unknown[], name = 'inputs', withTensors = true): PackedInputs {
  const names: (string | null)[] = []
  const table: number[] = []
  const data: Uint8Array[] = []
  const add = (index: number, field: string | null, { data: array, shape }: Tensor): void => {
    names.push(field)
    table.push(index, dtypes[typeName(array)] ?? 0, shape.length, ...shape)
    data.push(bytesOf(array))
  }
  const items = inputs.map((input, index) => {
    const where = inputs.length === 1 ? name : `${name}[${index}]`
    const whole = withTensors ? asTensor(input, where) : undefined
    if (whole !== undefined) {
      add(index, null, whole)
      return null
    }
    const rest = withTensors ? splitFields(input, where, (field, tensor) => add(index, field, tensor)) : input
    checkPlain(rest, where, [])
    return rest
  })
  return { items: stringify(items, name), names: toJson(names), table: Uint32Array.from(table), data }
}

/** The input without those fields that are tensors. */
function splitFields(input: unknown, where: string, add: (field: string, tensor: Tensor) => void): unknown {
  if (typeof input !== 'object' || input === null || Array.isArray(input) || hasToJson(input)) return input
  let rest: Record<string, unknown> | undefined
  for (const [field, value] of Object.entries(input)) {
    const tensor = asTensor(value, `${where}.${field}`)
    if (tensor === undefined) continue
    rest ??= { ...input }
    // eslint-disable-next-line @typescript-eslint/no-dynamic-delete -- of a copy
    delete rest[field]
    add(field, tensor)
  }
  return rest ?? input
}

function asTensor(value: unknown, where: string): Tensor | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  if (ArrayBuffer.isView(value)) {
    if (!(typeName(value) in dtypes)) throw invalidArgument(where, 'a typed array that numpy knows', value)
    const array = value as TypedArray
    return { data: array, shape: [array.length] }
  }
  const { data, shape } = value as Partial<Tensor>
  if (!ArrayBuffer.isView(data) || !Array.isArray(shape) || Object.keys(value).length !== 2) return undefined
  if (!(typeName(data) in dtypes)) throw invalidArgument(`${where}.data`, 'a typed array that numpy knows', data)
  const sizes = shape as unknown[]
  const elements =
    sizes.every((size) => kinds.natural.test(size)) && sizes.length <= 32 ? product(sizes as number[]) : undefined
  if (elements !== data.length) {
    throw invalidArgument(
      `${where}.shape`,
      `sizes whose product is ${data.length}, the length of data`,
      `[${sizes.join(', ')}]`,
    )
  }
  return { data, shape: sizes as number[] }
}

function product(sizes: readonly number[]): number {
  return sizes.reduce((all, size) => all * size, 1)
}

// The class's name as it was made: a Buffer is a Uint8Array.
function typeName(array: ArrayBufferView): string {
  return (array as unknown as Record<symbol, string | undefined>)[Symbol.toStringTag] ?? ''
}

function bytesOf(array: ArrayBufferView): Uint8Array {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
  // Shared memory has no stable contents to hand over.
  return array.buffer instanceof ArrayBuffer ? bytes : bytes.slice()
}

function hasToJson(value: object): boolean {
  return typeof (value as { toJSON?: unknown }).toJSON === 'function'
}

const maxDepth = 200

/** JSON makes null of NaN, and an object of an array's bytes; who sends them means something else. `path` is where `value` lies. */
function checkPlain(value: unknown, where: string, path: (string | number)[]): void {
  if (typeof value === 'string' || typeof value === 'boolean' || value === null) return
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw refused(where, path, 'a finite number', value)
    return
  }
  if (value === undefined && path.length > 0) return
  if (typeof value !== 'object') throw refused(where, path, 'a value that JSON carries', value)
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer || value instanceof Map || value instanceof Set) {
    throw refused(where, path, 'a value that JSON carries', value, deepArrays)
  }
  if (hasToJson(value)) return
  if (path.length >= maxDepth) throw refused(where, path, `nested at most ${maxDepth} deep`, value)
  // An array's indices and an object's names alike; text only once something is wrong.
  for (const field of Array.isArray(value) ? value.keys() : Object.keys(value)) {
    path.push(field)
    checkPlain((value as Record<string | number, unknown>)[field], where, path)
    path.pop()
  }
}

const deepArrays = 'typed arrays may be the input itself or a field of it; what lies deeper must be an array of numbers'

function refused(where: string, path: (string | number)[], expected: string, value: unknown, remedy?: string): Error {
  const steps = path.map((step) => (typeof step === 'number' ? `[${step}]` : `.${step}`)).slice(0, 10)
  return invalidArgument(`${where}${steps.join('')}`, expected, value, remedy)
}

function stringify(items: readonly unknown[], name: string): string {
  try {
    return toJson(items)
  } catch (cause) {
    // What a `toJSON` or a getter of the caller's threw.
    throw new PillionError({
      code: 'invalid_argument',
      message: `${name} cannot be made JSON: ${cause instanceof Error ? cause.message : String(cause)}`,
      param: name,
      cause,
    })
  }
}

/**
 * The results of one call. Each array has memory of its own: a small one is copied out of `data`, and `large` is the caller's.
 */
export function readResults(json: string, data: Uint8Array, large: readonly Uint8Array[]): PredictResult[] {
  const results = JSON.parse(json) as readonly Described[]
  return results.map((result) => {
    if (!result.ok) return { ok: false, error: errorFromData(result.error) }
    let value = result.value
    for (const { name, dtype, shape, place } of result.tensors) {
      const array: TypedArray = new constructors[dtype](memoryOf(place, data, large))
      const found = shape.length === 1 ? array : { data: array, shape }
      if (name === null) value = found
      else setField(value as object, name, found)
    }
    return { ok: true, value }
  })
}

function memoryOf(place: Place, data: Uint8Array, large: readonly Uint8Array[]): ArrayBuffer {
  if ('large' in place) {
    const whole = large[place.large]
    if (whole === undefined) throw new PillionError({ code: 'internal', message: `no tensor ${place.large} came` })
    return whole.buffer as ArrayBuffer
  }
  const from = data.byteOffset + place.offset
  return data.buffer.slice(from, from + place.length) as ArrayBuffer
}

// Not by assignment, which would take `__proto__` for something else.
function setField(target: object, name: string, value: unknown): void {
  Object.defineProperty(target, name, { value, enumerable: true, configurable: true, writable: true })
}
