// Compares a tokenizer of ours with the reference on one set of texts: ids, offsets, decoding, and that every way to encode gives the same.
import type { Tokenizer } from '../../src/index'
import { digestOfAnswer, type Reference, type Rows } from './reference'

/** One text whose tokens differ. */
export interface Difference {
  /** Which comparison it was. */
  readonly what: string
  /** The smallest part of the text that still differs, where it was looked for. */
  readonly text: string
  readonly expected: string
  readonly actual: string
}

/** What came of one set. */
export interface SetResult {
  readonly set: string
  readonly texts: number
  readonly tokens: number
  readonly differing: number
  /** The first ones, minimised. */
  readonly differences: readonly Difference[]
  readonly seconds: number
}

/** What to compare. */
export interface CompareOptions {
  readonly set: string
  readonly texts: readonly string[]
  /** Whether the template's tokens are added on both sides. */
  readonly addSpecialTokens: boolean
  /** Whether the ids are decoded on both sides too. */
  readonly decode: boolean
  /** A second tokenizer from the same file, whose caches know nothing of these texts. */
  readonly cold: Tokenizer
  /** Of how many chunks one is also encoded text by text, and cold. */
  readonly everyNth: number
  /** How many differences are minimised. */
  readonly maxShown: number
}

const textsPerChunk = 1024
const unitsPerChunk = 400_000

/** Runs one set. */
export async function compareSet(
  tokenizer: Tokenizer,
  reference: Reference,
  options: CompareOptions,
): Promise<SetResult> {
  const begin = performance.now()
  const found = new Found(tokenizer, reference, options)
  let tokens = 0
  let number = 0
  // The reference works on the next chunk while ours is compared with this one.
  const ahead: { chunk: readonly string[]; digest: Promise<string> }[] = []
  const finish = async (): Promise<void> => {
    const first = ahead.shift()
    if (first !== undefined) tokens += await compareChunk(found, first.chunk, await first.digest, number)
    number += 1
  }
  for (const chunk of chunksOf(options.texts)) {
    const digest = reference.digest({ kind: 'encode', texts: chunk, addSpecialTokens: options.addSpecialTokens })
    // Awaited above; without this a failure while the one before is compared would end the process.
    digest.catch(() => undefined)
    ahead.push({ chunk, digest })
    if (ahead.length > 2) await finish()
  }
  while (ahead.length > 0) await finish()
  const { count, differences } = found
  return {
    set: options.set,
    texts: options.texts.length,
    tokens,
    differing: count,
    differences,
    seconds: (performance.now() - begin) / 1000,
  }
}

function* chunksOf(texts: readonly string[]): Generator<readonly string[]> {
  let from = 0
  while (from < texts.length) {
    let to = from
    for (let units = 0; to < texts.length && to - from < textsPerChunk && units < unitsPerChunk; to += 1)
      units += texts[to]?.length ?? 0
    yield texts.slice(from, to)
    from = to
  }
}

/** Compares one chunk in all ways; returns its tokens. */
async function compareChunk(found: Found, chunk: readonly string[], expected: string, number: number): Promise<number> {
  const { tokenizer, reference, options } = found
  const ours = await encodeRows(tokenizer, chunk, options.addSpecialTokens)
  if (digestOfAnswer(ours) !== expected) {
    const theirs = await reference.ask({ kind: 'encode', texts: chunk, addSpecialTokens: options.addSpecialTokens })
    await found.compareRows('ids and offsets', chunk, theirs, ours)
  }
  await compareUtf16(found, chunk, ours)
  if (options.decode) await compareDecoded(found, chunk, ours)
  if (number % options.everyNth === 0) await compareWays(found, chunk, ours)
  return ours.ids.length
}

async function encodeRows(tokenizer: Tokenizer, texts: readonly string[], addSpecialTokens: boolean): Promise<Rows> {
  // The reference always looks for added tokens in the text.
  const batch = await tokenizer.encodeBatch(texts, {
    addSpecialTokens,
    parseSpecialTokens: true,
    include: ['offsets'],
    offsetUnit: 'codepoint',
  })
  const lengths = new Uint32Array(texts.length)
  for (let i = 0; i < lengths.length; i += 1) lengths[i] = (batch.rowOffsets[i + 1] ?? 0) - (batch.rowOffsets[i] ?? 0)
  return { lengths, ids: batch.ids, offsets: batch.offsets }
}

/** Our own unit of offsets, which the reference does not have, must say the same. */
async function compareUtf16(found: Found, texts: readonly string[], ours: Rows): Promise<void> {
  const { options } = found
  const batch = await found.tokenizer.encodeBatch(texts, {
    addSpecialTokens: options.addSpecialTokens,
    parseSpecialTokens: true,
    include: ['offsets'],
  })
  let at = 0
  for (const [i, text] of texts.entries()) {
    const end = at + (ours.lengths[i] ?? 0)
    const expected = toUtf16(text, ours.offsets.subarray(2 * at, 2 * end))
    const actual = batch.offsets.subarray(2 * at, 2 * end)
    if (!sameNumbers(expected, actual)) found.add('UTF-16 offsets', text, show(expected), show(actual))
    at = end
  }
  if (!sameNumbers(ours.ids, batch.ids))
    found.add('ids with another unit of offsets', texts[0] ?? '', show(ours.ids), show(batch.ids))
}

/** Offsets in code points as offsets in UTF-16 units. */
function toUtf16(text: string, offsets: Uint32Array): Uint32Array {
  if (!/[\ud800-\udbff][\udc00-\udfff]/.test(text)) return offsets
  const units: number[] = []
  let at = 0
  for (const char of text) {
    units.push(at)
    at += char.length
  }
  units.push(at)
  return offsets.map((offset) => units[offset] ?? Number.NaN)
}

async function compareDecoded(found: Found, texts: readonly string[], rows: Rows): Promise<void> {
  const { tokenizer, reference } = found
  const rowOffsets = offsetsOf(rows)
  for (const skipSpecialTokens of [false, true]) {
    const question = { kind: 'decode', lengths: rows.lengths, ids: rows.ids, skipSpecialTokens } as const
    const expected = await reference.digest(question)
    const decoded = await tokenizer.decodeBatch({ ids: rows.ids, rowOffsets }, { skipSpecialTokens })
    if (digestOfAnswer(decoded) === expected) continue
    const theirs = await reference.ask(question)
    for (const [i, text] of texts.entries()) {
      if (theirs[i] !== decoded[i])
        found.add(
          `decode, skipSpecialTokens ${skipSpecialTokens ? 'on' : 'off'}`,
          text,
          quote(theirs[i] ?? ''),
          quote(decoded[i] ?? ''),
        )
    }
  }
}

const maxSyncUnits = 65_536

/** One by one, one by one as bytes, asynchronously, counted, and cold: all as in the batch. */
async function compareWays(found: Found, texts: readonly string[], rows: Rows): Promise<void> {
  const { tokenizer, options } = found
  const plain = { addSpecialTokens: options.addSpecialTokens, parseSpecialTokens: true }
  let at = 0
  for (const [i, text] of texts.entries()) {
    const expected = rows.ids.subarray(at, at + (rows.lengths[i] ?? 0))
    at += expected.length
    const isLong = text.length > maxSyncUnits
    const ways: Record<string, Uint32Array> = {
      single: isLong ? (await tokenizer.encodeAsync(text, plain)).ids : tokenizer.encode(text, plain).ids,
      bytes: (await tokenizer.encodeAsync(new TextEncoder().encode(text), plain)).ids,
    }
    for (const [way, ids] of Object.entries(ways)) {
      if (!sameNumbers(expected, ids)) found.add(`${way} against batch`, text, show(expected), show(ids))
    }
  }
  const reversed = texts.toReversed()
  const cold = await options.cold.encodeBatch(reversed, plain)
  let end = rows.ids.length
  for (const [i, text] of reversed.entries()) {
    const length = rows.lengths[rows.lengths.length - 1 - i] ?? 0
    const expected = rows.ids.subarray(end - length, end)
    end -= length
    const ids = cold.ids.subarray(cold.rowOffsets[i], cold.rowOffsets[i + 1])
    if (!sameNumbers(expected, ids)) found.add('cold against warm', text, show(expected), show(ids))
  }
  await compareCounts(found, texts)
  await compareStreams(found, texts, rows)
}

/** Ids that come one by one must become the text that they are together. */
async function compareStreams(found: Found, texts: readonly string[], rows: Rows): Promise<void> {
  const rowOffsets = offsetsOf(rows)
  for (const skipSpecialTokens of [false, true]) {
    const decoded = await found.tokenizer.decodeBatch({ ids: rows.ids, rowOffsets }, { skipSpecialTokens })
    const stream = found.tokenizer.decodeStream({ skipSpecialTokens })
    for (const [i, text] of texts.entries()) {
      let streamed = ''
      for (const id of rows.ids.subarray(rowOffsets[i], rowOffsets[i + 1])) streamed += stream.push(id)
      streamed += stream.end()
      if (streamed !== decoded[i]) found.add('decodeStream', text, quote(decoded[i] ?? ''), quote(streamed))
    }
  }
}

function offsetsOf({ lengths }: Rows): Uint32Array {
  const rowOffsets = new Uint32Array(lengths.length + 1)
  lengths.forEach((length, i) => (rowOffsets[i + 1] = (rowOffsets[i] ?? 0) + length))
  return rowOffsets
}

/** Counting takes no options, so it is compared with encoding without any. */
async function compareCounts(found: Found, texts: readonly string[]): Promise<void> {
  const counts = await found.tokenizer.countBatch(texts)
  const batch = await found.tokenizer.encodeBatch(texts)
  for (const [i, text] of texts.entries()) {
    const expected = (batch.rowOffsets[i + 1] ?? 0) - (batch.rowOffsets[i] ?? 0)
    if (counts[i] !== expected) found.add('countBatch', text, String(expected), String(counts[i]))
    if (text.length <= maxSyncUnits && found.tokenizer.count(text) !== expected)
      found.add('count', text, String(expected), String(found.tokenizer.count(text)))
  }
}

/** Gathers differences and minimises the first ones. */
class Found {
  readonly tokenizer: Tokenizer
  readonly reference: Reference
  readonly options: CompareOptions
  readonly differences: Difference[] = []
  count = 0
  readonly #shown = new Set<string>()

  constructor(tokenizer: Tokenizer, reference: Reference, options: CompareOptions) {
    this.tokenizer = tokenizer
    this.reference = reference
    this.options = options
  }

  add(what: string, text: string, expected: string, actual: string): void {
    this.count += 1
    if (this.differences.length < this.options.maxShown) this.differences.push({ what, text, expected, actual })
  }

  async compareRows(what: string, texts: readonly string[], theirs: Rows, ours: Rows): Promise<void> {
    let [t, o] = [0, 0]
    for (const [i, text] of texts.entries()) {
      const [a, b] = [theirs.lengths[i] ?? 0, ours.lengths[i] ?? 0]
      const sameIds = sameNumbers(theirs.ids.subarray(t, t + a), ours.ids.subarray(o, o + b))
      const sameOffsets = sameNumbers(
        theirs.offsets.subarray(2 * t, 2 * (t + a)),
        ours.offsets.subarray(2 * o, 2 * (o + b)),
      )
      t += a
      o += b
      if (sameIds && sameOffsets) continue
      if (this.differences.length >= this.options.maxShown) this.count += 1
      else await this.#addMinimal(sameIds ? 'offsets' : what, text)
    }
  }

  async #addMinimal(what: string, text: string): Promise<void> {
    const smallest = await minimise(text, (part) => this.#differs(part))
    // Many texts shrink to the same one.
    if (this.#shown.has(smallest)) {
      this.count += 1
      return
    }
    this.#shown.add(smallest)
    const { addSpecialTokens } = this.options
    const theirs = await this.reference.ask({ kind: 'encode', texts: [smallest], addSpecialTokens })
    const ours = await encodeRows(this.tokenizer, [smallest], addSpecialTokens)
    this.add(what, smallest, showRow(this.tokenizer, theirs), showRow(this.tokenizer, ours))
  }

  async #differs(text: string): Promise<boolean> {
    const { addSpecialTokens } = this.options
    const theirs = await this.reference.ask({ kind: 'encode', texts: [text], addSpecialTokens })
    return digestOfAnswer(theirs) !== digestOfAnswer(await encodeRows(this.tokenizer, [text], addSpecialTokens))
  }
}

/** Takes away pieces, halves first and single characters last, as long as it still differs. */
async function minimise(text: string, differs: (part: string) => Promise<boolean>): Promise<string> {
  let chars = Array.from(text)
  for (let size = Math.ceil(chars.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let again = true; again;) {
      again = false
      for (let at = 0; at < chars.length;) {
        const rest = [...chars.slice(0, at), ...chars.slice(at + size)]
        if (rest.length < chars.length && rest.length > 0 && (await differs(rest.join('')))) {
          chars = rest
          again = true
        } else at += size
      }
    }
  }
  return chars.join('')
}

function sameNumbers(a: Uint32Array, b: Uint32Array): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i])
}

function showRow(tokenizer: Tokenizer, { ids, offsets }: Rows): string {
  const tokens = Array.from(
    ids.subarray(0, 40),
    (id, i) => `${id} ${quote(tokenizer.idToToken(id) ?? '?')} ${offsets[2 * i] ?? ''}-${offsets[2 * i + 1] ?? ''}`,
  )
  return tokens.join(' | ') + (ids.length > 40 ? ` | ... ${ids.length} tokens` : '')
}

function show(numbers: Uint32Array): string {
  return numbers.length > 60 ? `${numbers.subarray(0, 60).join(' ')} ... ${numbers.length}` : numbers.join(' ')
}

/** A text in ASCII, so that what cannot be seen is seen. */
export function quote(text: string): string {
  const short = text.length > 300 ? `${text.slice(0, 300)}...` : text
  return JSON.stringify(short).replaceAll(/[^ -~]/gu, (char) => {
    const code = char.codePointAt(0) ?? 0
    return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, '0')}`
  })
}
