import { fileURLToPath } from 'node:url'
import { callNative, runCall, tell, type Call } from './call'
import {
  batchEncoding,
  encoding,
  encodingOfIds,
  type BatchEncoding,
  type Col,
  type EncodedBatch,
  type Encoding,
} from './encoding'
import { invalidArgument } from './errors'
import { native, type NativeBatch, type NativeCancel, type NativeTokenizer } from './native'
import { callShape, checkArgument, checkOptions, kinds, oneOf, toJson } from './options'
import { decodeStream, isId, toIds, type DecodeStream, type SettledTexts } from './decode-stream'
import { checkMessages, templateJson, templateShape, type ChatMessage, type Template } from './chat'
import {
  checkSyncText,
  copySlices,
  copyText,
  copyTexts,
  countTexts,
  isFew,
  maxSyncUnits,
  tooLong,
  unshared,
  type BatchTexts,
  type PackedTexts,
  type Text,
} from './texts'

export type { DecodeStream, PackedTexts, Text }

/** How to encode. */
export interface EncodeOptions<C extends Col = never> {
  /** Columns to compute besides the ids. Default: none. */
  readonly include?: readonly C[] | undefined
  /** The second text of a pair. Default: none. */
  readonly pair?: Text | undefined
  /** Whether the tokenizer's own special tokens (BOS, `[CLS]` ...) are added. Default: true. */
  readonly addSpecialTokens?: boolean | undefined
  /**
   * Whether special tokens that stand in the text become their ids: none, all, or those named. Leave it for text that
   * users wrote. Default: false.
   */
  readonly parseSpecialTokens?: boolean | readonly string[] | undefined
  /** What `offsets` count. Default: `'utf16'`, so that `text.slice(start, end)` works. */
  readonly offsetUnit?: 'utf16' | 'codepoint' | 'byte' | undefined
  /** Where to cut. Default: nowhere. */
  readonly truncation?: Truncation | undefined
}

/** Where and how to cut what is too long. */
export interface Truncation {
  /** Tokens that a row may have, those of the template included. */
  readonly maxLength: number
  /** Which end is cut off. Default: `'right'`. */
  readonly side?: 'left' | 'right' | undefined
  /** Which text of a pair is cut. Default: `'longest-first'`. */
  readonly strategy?: 'longest-first' | 'only-first' | 'only-second' | undefined
  /** Tokens that a piece repeats from the one before; only of use with `overflow`. Default: 0. */
  readonly stride?: number | undefined
  /** Whether what was cut off becomes further rows; batches only. Default: false. */
  readonly overflow?: boolean | undefined
}

/** Told how many texts of a batch are done, at most some dozens of times per batch. */
export interface BatchProgress {
  /** Called on the JS thread with the texts done and the texts in all. Default: none. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined
}

/** How to turn ids into text. */
export interface DecodeOptions {
  /** Leaves out tokens that the tokenizer's file calls special. Default: false. */
  readonly skipSpecialTokens?: boolean | undefined
  /** Undoes the spaces that simple tokenizers put before punctuation. Default: false. */
  readonly cleanUp?: boolean | undefined
}

/** What `fromPretrained` takes. */
export type PretrainedOptions = Call

/** Options of {@link Tokenizer.encodeInto}: those that need no column. */
export type EncodeIntoOptions = Omit<EncodeOptions, 'include' | 'offsetUnit'>

// Where ids are written first: a slice of it costs a third of an array that native code makes.
const room = new Uint32Array(16_384)

// Up to so many units, the work takes less time than waking a thread of the pool.
const inlineUnits = { pillion: 8192, tokenizers: 128 }

/**
 * A tokenizer, immutable: settings such as truncation and padding are per call. It needs no Python. Its memory is freed when
 * it is garbage.
 */
export class Tokenizer {
  /** Which engine runs, and why the faster one does not where it does not. */
  readonly engine: { readonly name: 'pillion' | 'tokenizers'; readonly reason?: string }
  /** How many ids have a token, added tokens included. */
  readonly vocabSize: number
  readonly #native: NativeTokenizer
  readonly #inlineUnits: number
  /** What streams keep, by their options. */
  readonly #streamTexts: SettledTexts[] = []

  private constructor(handle: NativeTokenizer) {
    handle.tellSize()
    this.#native = handle
    const { name, reason } = handle.engine()
    this.engine = { name: name as 'pillion' | 'tokenizers', ...(reason === undefined ? {} : { reason }) }
    this.vocabSize = handle.vocabSize()
    this.#inlineUnits = inlineUnits[this.engine.name]
  }

  /** @internal The handle that an engine has loaded already. */
  static wrap(handle: NativeTokenizer): Tokenizer {
    return new Tokenizer(handle)
  }

  /**
   * Reads a `tokenizer.json`. It has no chat template; {@link fromPretrained} reads that too.
   * @throws `model_not_found` if there is no such file, `invalid_tokenizer` if it cannot be read as one
   */
  static async fromFile(path: string | URL, options?: Call): Promise<Tokenizer> {
    checkOptions('Tokenizer.fromFile()', options, callShape)
    const local = path instanceof URL ? fileURLToPath(path) : path
    checkArgument('path', local, kinds.string)
    return new Tokenizer(await runCall(options, () => native().NativeTokenizer.fromFile(local)))
  }

  /**
   * Reads the text of a `tokenizer.json`.
   * @throws `invalid_tokenizer` if it cannot be read as one
   */
  static async fromJSON(json: Text, options?: Call): Promise<Tokenizer> {
    checkOptions('Tokenizer.fromJSON()', options, callShape)
    checkArgument('json', json, kinds.text)
    const cancel = newCancel()
    const load = async (): Promise<NativeTokenizer> =>
      native().NativeTokenizer.fromJson(await copyText(json, undefined, cancel))
    return new Tokenizer(await runCall(options, load, () => cancel.cancel()))
  }

  /**
   * Reads the tokenizer of a model folder: `tokenizer.json`, `tokenizer_config.json` and the chat template. Nothing is
   * downloaded; an id such as `org/name` is looked up in the local Hugging Face cache.
   * @throws `model_not_found` if there is no such folder or no tokenizer in it, `invalid_tokenizer` if it cannot be read
   */
  static async fromPretrained(dirOrHubId: string, options?: PretrainedOptions): Promise<Tokenizer> {
    checkOptions('Tokenizer.fromPretrained()', options, callShape)
    checkArgument('dirOrHubId', dirOrHubId, kinds.string)
    return new Tokenizer(await runCall(options, () => native().NativeTokenizer.fromPretrained(dirOrHubId)))
  }

  /**
   * Encodes a short text at once, on the JS thread.
   * @throws `invalid_argument` for a text of more than 65,536 UTF-16 units (use {@link encodeAsync}) or a bad option
   */
  encode<C extends Col = never>(text: Text, options?: EncodeOptions<C>): Encoding<C> {
    checkOptions('encode()', options, encodeShape)
    checkSyncText('encode', 'encodeAsync', text, options?.pair)
    return this.#encodeHere(text, options)
  }

  /**
   * Encodes a short text at once, on the JS thread, into an array of the caller's; nothing else is made.
   * @returns how many ids were written, from the array's beginning
   * @throws `invalid_argument` for an array that is too short, which is left as it is, for a text of more than 65,536 UTF-16 units or a
   * bad option
   */
  encodeInto(text: Text, ids: Uint32Array, options?: EncodeIntoOptions): number {
    checkOptions('encodeInto()', options, encodeIntoShape)
    checkSyncText('encodeInto', 'encodeAsync', text, options?.pair)
    if (!(ids instanceof Uint32Array)) throw invalidArgument('ids', 'a Uint32Array', ids)
    const { flags, json } = crossing(options)
    return callNative(() => this.#native.encodeInto(text, options?.pair, ids, flags, json))
  }

  /**
   * Encodes a text on the tokenizer's own threads; a very short one at once, where that is cheaper than their wake-up.
   * @throws `invalid_argument` for a bad option, `deadline_exceeded`, the signal's reason; an abort also ends the work
   */
  async encodeAsync<C extends Col = never>(text: Text, options?: EncodeOptions<C> & Call): Promise<Encoding<C>> {
    checkOptions('encodeAsync()', options, encodeAsyncShape)
    checkArgument('text', text, kinds.text)
    const cancel = newCancel()
    const run = async (): Promise<Encoding<C>> => {
      if (text.length + (options?.pair?.length ?? 0) <= this.#inlineUnits) return this.#encodeHere(text, options)
      const { flags, json } = crossing(options)
      const texts = await copyText(text, options?.pair, cancel)
      return encoding(this.#native, await this.#native.encodeAsync(texts, flags, json, cancel))
    }
    return await runCall(options, run, () => cancel.cancel())
  }

  #encodeHere<C extends Col>(text: Text, options: EncodeOptions<C> | undefined): Encoding<C> {
    const handle = this.#native
    const { flags, json, columns } = crossing(options)
    if (columns) {
      return encoding(
        handle,
        callNative(() => handle.encode(text, options?.pair, flags, json)),
      )
    }
    const ids = callNative(() => handle.encodeIds(text, options?.pair, room, flags, json))
    return encodingOfIds(handle, typeof ids === 'number' ? room.slice(0, ids) : ids)
  }

  /**
   * Encodes many texts, or pairs, in parallel on the tokenizer's own threads, into one flat array; very few and short ones at once. The
   * fastest way to encode: while the threads work on some texts, the next are copied, so `texts` must stay as they are until the promise
   * settles.
   * @throws `invalid_argument` for a bad option or text, `deadline_exceeded`, the signal's reason; an abort also ends the work
   */
  async encodeBatch<C extends Col = never>(
    texts: readonly (Text | readonly [Text, Text])[] | PackedTexts,
    options?: Omit<EncodeOptions<C>, 'pair'> & Call & BatchProgress,
  ): Promise<BatchEncoding<C>> {
    checkOptions('encodeBatch()', options, encodeBatchShape)
    const total = countTexts(texts)
    const cancel = newCancel()
    const { NativeBatch } = native()
    const run = async (): Promise<BatchEncoding<C>> => {
      const progress = ascending(options?.onProgress, total)
      const { flags, json } = crossing(options)
      const columns = isFew(texts, this.#inlineUnits)
        ? this.#native.encodeFew(texts, flags, json)
        : await this.#encodeParts(texts, new NativeBatch(this.#native, total, flags, json, cancel, progress), cancel)
      progress?.(total)
      return batchEncoding(this.#native, columns)
    }
    return await runCall(options, run, () => cancel.cancel())
  }

  /** Encodes each slice of a batch while the next is copied. */
  async #encodeParts(texts: BatchTexts, batch: NativeBatch, cancel: NativeCancel): Promise<EncodedBatch> {
    try {
      await copySlices(texts, cancel, batch)
    } catch (error) {
      cancel.cancel()
      throw error
    }
    return await batch.finish()
  }

  /**
   * Counts the tokens of a short text, special tokens of the template included, without handing them over.
   * @throws `invalid_argument` for a text of more than 65,536 UTF-16 units (use {@link countBatch})
   */
  count(text: Text): number {
    checkSyncText('count', 'countBatch', text)
    return callNative(() => this.#native.count(text))
  }

  /**
   * Counts the tokens of many texts in parallel.
   * @throws `invalid_argument` for a bad text, `deadline_exceeded`, the signal's reason; an abort also ends the work
   */
  async countBatch(texts: readonly Text[] | PackedTexts, options?: Call): Promise<Uint32Array> {
    checkOptions('countBatch()', options, callShape)
    countTexts(texts)
    const cancel = newCancel()
    const run = async (): Promise<Uint32Array> =>
      isFew(texts, this.#inlineUnits)
        ? this.#native.countFew(texts)
        : await this.#native.countBatch(await copyTexts(texts, cancel), cancel)
    return await runCall(options, run, () => cancel.cancel())
  }

  /**
   * Whether a text has at most `max` tokens, special tokens of the template included.
   * @throws `invalid_argument` for a text of more than 65,536 UTF-16 units (use {@link countBatch})
   */
  fits(text: Text, max: number): boolean {
    checkArgument('max', max, kinds.natural)
    checkSyncText('fits', 'countBatch', text)
    return callNative(() => this.#native.count(text)) <= max
  }

  /**
   * The longest beginning (or, with `side: 'left'`, end) of a text that has at most `max` tokens, special tokens of the template
   * included, so that it {@link fits}. Never cuts a character.
   * @param options `side`: which end is cut off. Default: `'right'`
   * @throws `invalid_argument` for a text of more than 65,536 UTF-16 units
   */
  truncateToTokens(text: Text, max: number, options?: { readonly side?: 'left' | 'right' | undefined }): string {
    checkOptions('truncateToTokens()', options, { side: oneOf('left', 'right') })
    checkArgument('max', max, kinds.natural)
    checkSyncText('truncateToTokens', 'encodeAsync with truncation and offsets', text)
    // No text of this length has more tokens than fit the other side's 32 bits.
    const most = Math.min(max, 2 ** 32 - 1)
    const [start, end] = callNative(() => this.#native.cutToTokens(text, most, options?.side === 'left'))
    return typeof text === 'string' ? text.slice(start, end) : utf8.decode(text.subarray(start, end))
  }

  /** The id of a token as the vocabulary spells it, or `undefined`. */
  tokenToId(token: string): number | undefined {
    checkArgument('token', token, kinds.string)
    return this.#native.tokenToId(token) ?? undefined
  }

  /** The token of an id as the vocabulary spells it, or `undefined`. */
  idToToken(id: number): string | undefined {
    if (!isId(id)) return undefined
    return this.#native.idToToken(id) ?? undefined
  }

  /**
   * Decodes a short list of ids at once, on the JS thread. An id that no token has gives nothing.
   * @throws `invalid_argument` for more than 65,536 ids (use {@link decodeBatch}) or what is no id
   */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string {
    checkOptions('decode()', options, decodeShape)
    const flat = toIds('ids', ids)
    if (flat.length > maxSyncUnits) throw tooLong('decode', 'decodeBatch', `${flat.length} ids`, 'ids')
    return callNative(() => this.#native.decode(flat, options?.skipSpecialTokens ?? false, options?.cleanUp ?? false))
  }

  /**
   * Decodes many rows of ids in parallel. An id that no token has gives nothing.
   * @throws `invalid_argument` for what is no id, `deadline_exceeded`, the signal's reason
   */
  async decodeBatch(
    rows: Pick<BatchEncoding, 'ids' | 'rowOffsets'> | readonly ArrayLike<number>[],
    options?: DecodeOptions & Call,
  ): Promise<string[]> {
    checkOptions('decodeBatch()', options, { ...decodeShape, ...callShape })
    const { ids, rowOffsets } = flatRows(rows)
    const cancel = newCancel()
    const run = (): Promise<string[]> =>
      this.#native.decodeBatch(ids, rowOffsets, options?.skipSpecialTokens ?? false, options?.cleanUp ?? false, cancel)
    return await runCall(options, run, () => cancel.cancel())
  }

  /** A stream that turns ids into text as they come. The cost of a token does not grow with the history. */
  decodeStream(options?: DecodeOptions): DecodeStream {
    checkOptions('decodeStream()', options, decodeShape)
    const [skip, cleanUp] = [options?.skipSpecialTokens ?? false, options?.cleanUp ?? false]
    const stream = callNative(() => this.#native.decodeStream(skip, cleanUp))
    return decodeStream(stream, (this.#streamTexts[(skip ? 1 : 0) + (cleanUp ? 2 : 0)] ??= []))
  }

  /**
   * Renders messages with the model's chat template. Encode the text with `addSpecialTokens: false` and `parseSpecialTokens: true`:
   * the template writes the special tokens itself. `engine.chat` does all of this, and keeps special tokens in messages apart.
   * @throws `unsupported` if the model has no template and none is given, `invalid_argument` if the template refuses the messages
   */
  applyChatTemplate(messages: readonly ChatMessage[], options?: Template): string {
    checkOptions('applyChatTemplate()', options, templateShape)
    checkMessages(messages)
    return callNative(() => this.#native.applyChatTemplate(toJson(messages), templateJson(options ?? {})))
  }
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })

const encodeShape = {
  include: kinds.array,
  pair: kinds.text,
  addSpecialTokens: kinds.boolean,
  parseSpecialTokens: kinds.booleanOrStrings,
  offsetUnit: oneOf('utf16', 'codepoint', 'byte'),
  truncation: kinds.object,
}
const { pair: _, ...withoutPair } = encodeShape
const encodeAsyncShape = { ...encodeShape, ...callShape }
const encodeBatchShape = { ...withoutPair, ...callShape, onProgress: kinds.function }
const { include: _include, offsetUnit: _offsetUnit, ...encodeIntoShape } = encodeShape
const decodeShape = { skipSpecialTokens: kinds.boolean, cleanUp: kinds.boolean }
const truncationShape = {
  maxLength: kinds.natural,
  side: oneOf('left', 'right'),
  strategy: oneOf('longest-first', 'only-first', 'only-second'),
  stride: kinds.natural,
  overflow: kinds.boolean,
}
const columns: readonly Col[] = ['offsets', 'attentionMask', 'specialTokensMask', 'typeIds', 'wordIds']

/** How options cross: switches as flags, anything else as JSON, which costs more than a short text. */
interface Crossing {
  readonly flags: number
  readonly json: string | undefined
  /** Whether any column besides the ids is wanted. */
  readonly columns: boolean
}

const defaults: Crossing = { flags: 0, json: undefined, columns: false }

function crossing(options: EncodeOptions<Col> | undefined): Crossing {
  if (options === undefined) return defaults
  const { include, addSpecialTokens, parseSpecialTokens, offsetUnit, truncation } = options
  if (include === undefined && truncation === undefined && typeof parseSpecialTokens !== 'object') {
    const flags = (addSpecialTokens === false ? 1 : 0) | (parseSpecialTokens === true ? 2 : 0)
    return { flags, json: undefined, columns: false }
  }
  for (const name of include ?? []) {
    if (!columns.includes(name)) throw invalidArgument('include', `names among ${columns.join(', ')}`, name)
  }
  checkOptions('truncation', truncation, truncationShape)
  if (truncation !== undefined) checkArgument('truncation.maxLength', truncation.maxLength, kinds.natural)
  const json = toJson({ include, addSpecialTokens, parseSpecialTokens, offsetUnit, truncation })
  return { flags: 0, json, columns: include !== undefined && include.length > 0 }
}

function newCancel(): NativeCancel {
  const { NativeCancel } = native()
  return new NativeCancel()
}

/** Tells a listener only what is further than before: the threads of a batch do not report in order, nor before its end is known. */
function ascending(listener: BatchProgress['onProgress'], total: number): ((done: number) => void) | undefined {
  if (listener === undefined) return undefined
  let told = 0
  return (done) => {
    if (done <= told) return
    told = done
    tell(listener, done, total)
  }
}

function flatRows(rows: Pick<BatchEncoding, 'ids' | 'rowOffsets'> | readonly ArrayLike<number>[]): {
  ids: Uint32Array
  rowOffsets: Uint32Array
} {
  if (!Array.isArray(rows)) {
    const { ids, rowOffsets } = rows as BatchEncoding
    if (ids instanceof Uint32Array && rowOffsets instanceof Uint32Array) {
      return { ids: unshared(ids), rowOffsets: unshared(rowOffsets) }
    }
    throw invalidArgument('rows', 'a batch encoding or an array of rows of ids', rows)
  }
  const lists = (rows as readonly ArrayLike<number>[]).map((row, i) => toIds(`rows[${i}]`, row))
  const rowOffsets = new Uint32Array(lists.length + 1)
  for (const [i, list] of lists.entries()) rowOffsets[i + 1] = (rowOffsets[i] ?? 0) + list.length
  const ids = new Uint32Array(rowOffsets[lists.length] ?? 0)
  for (const [i, list] of lists.entries()) ids.set(list, rowOffsets[i])
  return { ids, rowOffsets }
}
