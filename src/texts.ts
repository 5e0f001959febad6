/** Texts on their way in: copied on the JS thread, long ones in slices between which the event loop runs. */

import { callNative } from './call'
import { PillionError, invalidArgument } from './errors'
import { native, type NativeTexts } from './native'
import { checkArgument, kinds } from './options'

/** A text: a string, in which a lone surrogate becomes U+FFFD, or UTF-8 bytes, which must be valid. */
export type Text = string | Uint8Array

/**
 * Many texts in one buffer, the cheapest way to hand over many: text `i` is the UTF-8 in `bytes.subarray(rowOffsets[i], rowOffsets[i + 1])`.
 * A call must find both unchanged until its promise settles.
 */
export interface PackedTexts {
  /** The UTF-8 of all texts. */
  readonly bytes: Uint8Array
  /** Where each text begins; one entry more than there are texts. */
  readonly rowOffsets: Uint32Array
}

/** What a batch is made of: texts and pairs. An array must stay as it is until the call settles. */
export type BatchTexts = readonly (Text | readonly [Text, Text])[] | PackedTexts

/** Longer texts take the async form, so that no call of ours holds up the event loop. A UTF-8 byte counts as a unit. */
export const maxSyncUnits = 65_536

/** Texts whose UTF-16 units are copied in one go on the JS thread; a batch with more lets other work in between. */
const unitsPerSlice = 2 << 20
const textsPerSlice = 16_384
/** The same where the pool begins with a slice at once: short, so that it neither waits nor leaves the caches, and long enough for all of its threads. */
const unitsPerPart = 256 << 10

/** A batch of at most so many texts may be done at once. */
const maxFewTexts = 64

/** Whether the call was taken back: then nothing more is copied. */
export interface Cancel {
  isCancelled(): boolean
}

/** Refuses what is no batch; gives how many texts it has. */
export function countTexts(texts: unknown): number {
  if (Array.isArray(texts)) return texts.length
  const { bytes, rowOffsets } = (texts ?? {}) as Partial<PackedTexts>
  if (bytes === undefined || rowOffsets === undefined) {
    throw invalidArgument('texts', 'an array of texts, or { bytes, rowOffsets }', texts)
  }
  checkArgument('texts.bytes', bytes, kinds.bytes)
  if (!(rowOffsets instanceof Uint32Array) || rowOffsets.length === 0) {
    throw invalidArgument('texts.rowOffsets', 'a Uint32Array with one entry more than there are texts', rowOffsets)
  }
  return rowOffsets.length - 1
}

/** Refuses what a call on the JS thread does not take, and names the form that does. */
export function checkSyncText(name: string, asyncForm: string, text: Text, pair?: Text): void {
  checkArgument('text', text, kinds.text)
  const units = text.length + (pair?.length ?? 0)
  if (units > maxSyncUnits) throw tooLong(name, asyncForm, `${units} UTF-16 units`, 'text')
}

/** What a call on the JS thread does not take. */
export function tooLong(name: string, asyncForm: string, got: string, param: string): PillionError {
  return new PillionError({
    code: 'invalid_argument',
    message: `${name}() takes at most ${maxSyncUnits.toLocaleString('en')} UTF-16 units or ids, since it runs on the JS thread; got ${got}`,
    param,
    remedy: `use ${asyncForm}`,
  })
}

/** Whether a batch is so small that doing it here takes less time than another thread's wake-up. */
export function isFew(texts: BatchTexts, maxUnits: number): texts is readonly (Text | readonly [Text, Text])[] {
  if (!Array.isArray(texts) || texts.length > maxFewTexts) return false
  let units = 0
  for (const item of texts as readonly (Text | readonly [Text, Text])[]) units += unitsOf(item)
  return units <= maxUnits
}

/** Copies one text, or a pair. */
export async function copyText(text: Text, pair: Text | undefined, cancel: Cancel): Promise<NativeTexts> {
  return await copyTexts([pair === undefined ? text : [text, pair]], cancel)
}

/** Copies the texts of a batch; an array is not needed afterwards. */
export async function copyTexts(texts: BatchTexts, cancel: Cancel): Promise<NativeTexts> {
  const { NativeTexts } = native()
  const arena = new NativeTexts()
  if (isArray(texts)) await copyArray(texts, unitsPerSlice, arena, cancel, { add: () => false, room: turn })
  else await copyPacked(texts, arena, cancel)
  return arena
}

/** Who takes a batch's texts slice by slice. */
export interface TextsTaker {
  /** Takes what is in the arena, of which the first text has this number; gives whether it wants no more for now. */
  add(slice: NativeTexts, first: number): boolean
  /** Settles when it wants more. */
  room(): Promise<void>
}

/** Copies the texts of a batch in slices; each is handed over before the next is copied. */
export async function copySlices(texts: BatchTexts, cancel: Cancel, taker: TextsTaker): Promise<void> {
  const { NativeTexts } = native()
  const arena = new NativeTexts()
  if (!isArray(texts)) {
    await copyPacked(texts, arena, cancel)
    taker.add(arena, 0)
    return
  }
  await copyArray(texts, unitsPerPart, arena, cancel, taker)
}

async function copyPacked(texts: PackedTexts, arena: NativeTexts, cancel: Cancel): Promise<void> {
  await copyPieces(arena, texts.bytes, 'texts.bytes', cancel)
  callNative(() => arena.rows(unshared(texts.rowOffsets)))
}

/** Copies about so many units at a time, and lets other work in between. */
async function copyArray(
  texts: readonly (Text | readonly [Text, Text])[],
  units: number,
  arena: NativeTexts,
  cancel: Cancel,
  taker: TextsTaker,
): Promise<void> {
  // As many as there were when the call was made: what came later is not the call's, what went is refused by its number.
  const total = texts.length
  let from = 0
  while (from < total && !cancel.isCancelled()) {
    const end = Math.min(total, from + textsPerSlice)
    let to = callNative(() => arena.push(texts as Text[], from, end, units, unitsPerSlice))
    if (to === from) {
      await copyLong(arena, texts[from] ?? '', `texts[${from}]`, cancel)
      to += 1
    }
    const isFull = taker.add(arena, from)
    from = to
    if (from < total) await (isFull ? taker.room() : turn())
  }
}

/** What is no text counts as nothing: it is refused, by name, where it is copied. */
function unitsOf(item: unknown): number {
  if (typeof item === 'string' || item instanceof Uint8Array) return item.length
  return Array.isArray(item) ? unitsOf(item[0]) + unitsOf(item[1]) : 0
}

async function copyLong(
  arena: NativeTexts,
  item: Text | readonly [Text, Text],
  name: string,
  cancel: Cancel,
): Promise<void> {
  const parts = Array.isArray(item) ? (item as readonly Text[]) : [item as Text]
  if (parts.length > 2) throw invalidArgument(name, 'a text or a pair of two texts', item)
  for (const [i, part] of parts.entries()) {
    const at = parts.length === 1 ? name : `${name}[${i}]`
    checkArgument(at, part, kinds.text)
    await copyPieces(arena, part, at, cancel)
  }
  if (parts.length === 2) arena.pair()
}

async function copyPieces(arena: NativeTexts, text: Text, name: string, cancel: Cancel): Promise<void> {
  const { length } = text
  for (let at = 0; at === 0 || at < length; at += unitsPerSlice) {
    if (at > 0) await turn()
    if (cancel.isCancelled()) return
    if (text.length !== length) {
      throw invalidArgument(name, 'bytes that stay until the call settles, not detached on the way', text)
    }
    const end = Math.min(at + unitsPerSlice, length)
    // A view of detached memory cannot be made; the whole is refused where it is copied.
    const piece =
      length <= unitsPerSlice ? text : typeof text === 'string' ? text.slice(at, end) : text.subarray(at, end)
    callNative(() => arena.piece(piece, at > 0))
  }
}

const isArray = (texts: BatchTexts): texts is readonly (Text | readonly [Text, Text])[] => Array.isArray(texts)

const turn = (): Promise<void> => new Promise((resume) => setImmediate(resume))

/** A typed array that no other thread writes to while it is read. */
export function unshared(array: Uint32Array): Uint32Array {
  return array.buffer instanceof SharedArrayBuffer ? array.slice() : array
}
