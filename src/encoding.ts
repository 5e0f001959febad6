/** What encoding gives back: flat typed arrays for the whole batch, and rows as views that are made when asked for. */

import { PillionError, invalidArgument } from './errors'
import { checkOptions, kinds, oneOf } from './options'
import type { NativeTokenizer } from './native'

/** Columns that are computed only when named in `include`. Each has one entry per token, `offsets` has two. */
export interface Columns {
  /** Start and end of each token in its text, in the unit of `offsetUnit`; 0, 0 for tokens that the template added. */
  readonly offsets: Uint32Array
  /** 1 for every token; padding, which `toPadded` adds, has 0. */
  readonly attentionMask: Uint8Array
  /** 1 for tokens that the template added. */
  readonly specialTokensMask: Uint8Array
  /** Which segment of a pair a token belongs to. */
  readonly typeIds: Uint8Array
  /** The word that a token came from, -1 for tokens that the template added. */
  readonly wordIds: Int32Array
}

/** The name of a column. */
export type Col = keyof Columns

/** The tokens of one text. */
export type Encoding<C extends Col = never> = Readonly<Pick<Columns, C>> & {
  /** The token ids. A view into the batch for rows of a batch. */
  readonly ids: Uint32Array
  /** The tokens as the vocabulary spells them. Costs a JS string per token. */
  tokens(): string[]
  /**
   * Start and end of a token in its text, in the unit of `offsetUnit`.
   * @throws `invalid_argument` if `offsets` was not in `include`, or there is no such token
   */
  span(token: number): [start: number, end: number]
}

/** Options of {@link BatchEncoding.toPadded}. */
export interface PadOptions<D extends 'int32' | 'int64' = 'int32'> {
  /** The id that fills up. Default: the tokenizer's own padding token, else 0. */
  readonly padId?: number | undefined
  /** Which end is filled up. Default: `'right'`. */
  readonly side?: 'left' | 'right' | undefined
  /** Tokens per row; longer rows are an error (use `truncation`). Default: the longest row. */
  readonly length?: number | undefined
  /** Rounds the length up to a multiple of this. Default: 1. */
  readonly multipleOf?: number | undefined
  /** The type of the numbers; `'int64'` is what ONNX models mostly want. Default: `'int32'`. */
  readonly dtype?: D | undefined
}

/** The array of a dtype. */
export type Ints<D> = D extends 'int64' ? BigInt64Array : Int32Array

/** A rectangle of ids with its mask, row by row. */
export interface Padded<D extends 'int32' | 'int64' = 'int32'> {
  readonly shape: [rows: number, cols: number]
  readonly ids: Ints<D>
  readonly attentionMask: Ints<D>
}

/** The tokens of many texts in one flat array: row `i` is `ids.subarray(rowOffsets[i], rowOffsets[i + 1])`. */
export type BatchEncoding<C extends Col = never> = Readonly<Pick<Columns, C>> &
  Iterable<Encoding<C>> & {
    /** The token ids of all rows. */
    readonly ids: Uint32Array
    /** Where each row begins in `ids`; one entry more than there are rows. */
    readonly rowOffsets: Uint32Array
    /** The input that each row came from; differs from the row's own number only with `overflow`. */
    readonly sources: Uint32Array
    /** How many rows there are. */
    readonly rows: number
    /**
     * A row as views into this batch; nothing is copied.
     * @throws `invalid_argument` if there is no such row
     */
    row(i: number): Encoding<C>
    /** A rectangle for models that take one. Copies. */
    toPadded<D extends 'int32' | 'int64' = 'int32'>(options?: PadOptions<D>): Padded<D>
  }

/** How a native call hands over an encoding; a column that was not asked for is absent. */
export interface EncodedColumns {
  ids: Uint32Array
  offsets?: Uint32Array | undefined
  attentionMask?: Uint8Array | undefined
  specialTokensMask?: Uint8Array | undefined
  typeIds?: Uint8Array | undefined
  wordIds?: Int32Array | undefined
}

/** How a native call hands over a batch. */
export interface EncodedBatch extends EncodedColumns {
  rowOffsets: Uint32Array
  sources: Uint32Array
}

const columnNames = ['attentionMask', 'specialTokensMask', 'typeIds', 'wordIds'] as const

class EncodingView {
  readonly ids: Uint32Array
  readonly #tokenizer: NativeTokenizer
  declare readonly offsets?: Uint32Array

  constructor(tokenizer: NativeTokenizer, ids: Uint32Array, columns?: EncodedColumns) {
    this.#tokenizer = tokenizer
    this.ids = ids
    if (columns !== undefined) assignColumns(this, columns)
  }

  tokens(): string[] {
    return this.#tokenizer.idsToTokens(this.ids)
  }

  span(token: number): [start: number, end: number] {
    const { offsets } = this
    if (offsets === undefined) throw notIncluded('span', 'offsets')
    if (!Number.isInteger(token) || token < 0 || token >= this.ids.length) {
      throw invalidArgument('token', `an index below ${this.ids.length}`, token)
    }
    return [offsets[2 * token] ?? 0, offsets[2 * token + 1] ?? 0]
  }
}

class BatchEncodingView implements Iterable<EncodingView> {
  readonly ids: Uint32Array
  readonly rowOffsets: Uint32Array
  readonly sources: Uint32Array
  readonly #tokenizer: NativeTokenizer
  readonly #columns: EncodedColumns

  constructor(tokenizer: NativeTokenizer, batch: EncodedBatch) {
    this.#tokenizer = tokenizer
    this.#columns = batch
    this.ids = batch.ids
    this.rowOffsets = batch.rowOffsets
    this.sources = batch.sources
    assignColumns(this, batch)
  }

  get rows(): number {
    return this.rowOffsets.length - 1
  }

  row(i: number): EncodingView {
    if (!Number.isInteger(i) || i < 0 || i >= this.rows) throw invalidArgument('row', `an index below ${this.rows}`, i)
    const start = this.rowOffsets[i] ?? 0
    const end = this.rowOffsets[i + 1] ?? start
    const row: EncodedColumns = { ids: this.ids.subarray(start, end) }
    if (this.#columns.offsets !== undefined) row.offsets = this.#columns.offsets.subarray(2 * start, 2 * end)
    for (const name of columnNames) {
      const column = this.#columns[name]
      if (column !== undefined) Object.assign(row, { [name]: column.subarray(start, end) })
    }
    return new EncodingView(this.#tokenizer, row.ids, row)
  }

  *[Symbol.iterator](): Iterator<EncodingView> {
    for (let i = 0; i < this.rows; i += 1) yield this.row(i)
  }

  toPadded(options: PadOptions<'int32' | 'int64'> = {}): Padded<'int32' | 'int64'> {
    checkOptions('toPadded()', options, padShape)
    const padId = options.padId ?? this.#tokenizer.padId() ?? 0
    const left = options.side === 'left'
    const cols = this.#paddedLength(options)
    const shape: [number, number] = [this.rows, cols]
    return options.dtype === 'int64'
      ? { shape, ...this.#fill64(cols, padId, left) }
      : { shape, ...this.#fill32(cols, padId, left) }
  }

  #paddedLength(options: PadOptions<'int32' | 'int64'>): number {
    let longest = 0
    for (let i = 0; i < this.rows; i += 1) longest = Math.max(longest, this.#rowLength(i))
    if (options.length !== undefined && options.length < longest) {
      throw invalidArgument('length', `at least the longest row's ${longest} tokens`, options.length, 'use truncation')
    }
    const multiple = options.multipleOf ?? 1
    return Math.ceil((options.length ?? longest) / multiple) * multiple
  }

  #rowLength(i: number): number {
    return (this.rowOffsets[i + 1] ?? 0) - (this.rowOffsets[i] ?? 0)
  }

  #fill32(cols: number, padId: number, left: boolean): { ids: Int32Array; attentionMask: Int32Array } {
    const ids = new Int32Array(this.rows * cols).fill(padId)
    const attentionMask = new Int32Array(this.rows * cols)
    for (let i = 0; i < this.rows; i += 1) {
      const length = this.#rowLength(i)
      const at = i * cols + (left ? cols - length : 0)
      ids.set(this.ids.subarray(this.rowOffsets[i], this.rowOffsets[i + 1]), at)
      attentionMask.fill(1, at, at + length)
    }
    return { ids, attentionMask }
  }

  #fill64(cols: number, padId: number, left: boolean): { ids: BigInt64Array; attentionMask: BigInt64Array } {
    const narrow = this.#fill32(cols, padId, left)
    return { ids: widen(narrow.ids), attentionMask: widen(narrow.attentionMask) }
  }
}

const padShape = {
  padId: kinds.id,
  side: oneOf('left', 'right'),
  length: kinds.count,
  multipleOf: kinds.count,
  dtype: oneOf('int32', 'int64'),
}

// A BigInt per element would be made and dropped by `BigInt64Array.from`; the two halves of each are written instead.
function widen(narrow: Int32Array): BigInt64Array {
  const wide = new BigInt64Array(narrow.length)
  const halves = new Int32Array(wide.buffer)
  const low = littleEndian ? 0 : 1
  for (let i = 0; i < narrow.length; i += 1) {
    const value = narrow[i] ?? 0
    halves[2 * i + low] = value
    if (value < 0) halves[2 * i + 1 - low] = -1
  }
  return wide
}

const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1

function assignColumns(target: object, columns: EncodedColumns): void {
  if (columns.offsets !== undefined) Object.assign(target, { offsets: columns.offsets })
  for (const name of columnNames) {
    if (columns[name] !== undefined) Object.assign(target, { [name]: columns[name] })
  }
}

function notIncluded(what: string, column: Col): PillionError {
  return new PillionError({
    code: 'invalid_argument',
    message: `${what} needs the column ${column}, which was not asked for`,
    param: 'include',
    remedy: `pass include: ['${column}']`,
  })
}

/** Wraps what a native encode gave back. */
export function encoding<C extends Col>(tokenizer: NativeTokenizer, columns: EncodedColumns): Encoding<C> {
  return new EncodingView(tokenizer, columns.ids, columns) as unknown as Encoding<C>
}

/** The same where ids are all that was asked for. */
export function encodingOfIds<C extends Col>(tokenizer: NativeTokenizer, ids: Uint32Array): Encoding<C> {
  return new EncodingView(tokenizer, ids) as unknown as Encoding<C>
}

/** Wraps what a native batch gave back. */
export function batchEncoding<C extends Col>(tokenizer: NativeTokenizer, batch: EncodedBatch): BatchEncoding<C> {
  return new BatchEncodingView(tokenizer, batch) as unknown as BatchEncoding<C>
}
