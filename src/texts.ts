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

/** What a batch is made of: texts and pairs. */
export type BatchTexts = readonly (Text | readonly [Text, Text])[] | PackedTexts

/** Longer texts take the async form, so that no call of ours holds up the event loop. A UTF-8 byte counts as a unit. */
export const maxSyncUnits = 65_536

/** Texts whose UTF-16 units are copied in one go on the JS thread; a batch with more lets other work in between. */
const unitsPerSlice = 2 << 20
const textsPerSlice = 16_384
/** The same where the pool begins with a slice at once: short, so that it does not wait, and long enough for all of its threads. */
const unitsPerPart = 512 << 10

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
  if (isArray(texts)) await copyArray(texts, unitsPerSlice, cancel, () => arena)
  else await copyPacked(texts, arena, cancel)
  return arena
}

/** Copies the texts of a batch in slices; each is handed over, with the number of its first text, before the next is copied. */
export async function copySlices(
  texts: BatchTexts,
  cancel: Cancel,
  take: (slice: NativeTexts, first: number) => void,
): Promise<void> {
  const { NativeTexts } = native()
  if (isArray(texts)) {
    await copyArray(texts, unitsPerPart, cancel, () => new NativeTexts(), take)
    return
  }
  const all = new NativeTexts()
  await copyPacked(texts, all, cancel)
  take(all, 0)
}

async function copyPacked(texts: PackedTexts, arena: NativeTexts, cancel: Cancel): Promise<void> {
  await copyPieces(arena, texts.bytes, 'texts.bytes', cancel)
  callNative(() => arena.rows(unshared(texts.rowOffsets)))
}

/** Copies so many units at a time, each time into the arena that `arenaFor` gives. */
async function copyArray(
  texts: readonly (Text | readonly [Text, Text])[],
  units: number,
  cancel: Cancel,
  arenaFor: () => NativeTexts,
  done?: (arena: NativeTexts, from: number) => void,
): Promise<void> {
  let next = 0
  while (next < texts.length && !cancel.isCancelled()) {
    const from = next
    const arena = arenaFor()
    const to = firstLong(texts, from)
    if (to > from) {
      next = callNative(() => arena.push(texts as Text[], from, to, units))
    } else {
      await copyLong(arena, texts[from] ?? '', `texts[${from}]`, cancel)
      next += 1
    }
    done?.(arena, from)
    if (next < texts.length) await turn()
  }
}

/** The first text from `from` on that is too long to copy in one go, or where this slice ends. */
function firstLong(texts: readonly (Text | readonly [Text, Text])[], from: number): number {
  const end = Math.min(texts.length, from + textsPerSlice)
  for (let at = from; at < end; at += 1) if (unitsOf(texts[at]) > unitsPerSlice) return at
  return end
}

/** What is no text counts as nothing here: it is refused, by name, where it is copied. */
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
