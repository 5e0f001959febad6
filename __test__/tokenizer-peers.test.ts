// What users complain about in other tokenizer packages, each as a test of ours. Time is not measured here: order and turns of the event loop are.
import { readFile } from 'node:fs/promises'
import { beforeAll, describe, expect, test } from 'vitest'
import { Tokenizer } from '../src/index'
import { tinyTokenizer } from './helpers'

let tokenizer: Tokenizer

beforeAll(async () => {
  tokenizer = await Tokenizer.fromJSON(JSON.stringify(tinyTokenizer()))
})

/** How often the event loop turns while some work is done. */
async function turnsDuring(work: () => Promise<unknown>): Promise<number> {
  let turns = 0
  let done = false
  const turn = (): void => {
    turns += 1
    if (!done) setImmediate(turn)
  }
  setImmediate(turn)
  await work()
  done = true
  return turns
}

describe('one long run of characters', () => {
  const base64 = Buffer.from(Array.from({ length: 75_000 }, (_, i) => (i * 7919) % 251)).toString('base64')
  const runs: [string, string][] = [
    ['a', 'a'.repeat(100_000)],
    ['_', '_'.repeat(100_000)],
    ['spaces', ' '.repeat(100_000)],
    ['newlines', '\n'.repeat(100_000)],
    ['CJK', '漢'.repeat(100_000)],
    ['emoji', '🌍'.repeat(50_000)],
    ['combining marks', `e${'\u0301'.repeat(100_000)}`],
    ['base64', base64],
  ]

  test.each(runs)('%s: does not hold up the event loop, and comes back', async (_, text) => {
    const { ids } = await tokenizer.encodeAsync(text, { addSpecialTokens: false })
    expect((await tokenizer.decodeBatch([ids]))[0] === text).toBe(true)
    // One such text may be done before the loop has turned at all.
    const turns = await turnsDuring(() => tokenizer.countBatch(Array(50).fill(text)))
    expect(turns).toBeGreaterThan(5)
  })

  // Ten times the length in the time of the runner's limit: a quadratic engine needs minutes already for the run above.
  test.each(runs)('%s: a million characters end', async (_, text) => {
    const long = text.repeat(10)
    const [count] = await tokenizer.countBatch([long, 'hello'])
    expect(count).toBeGreaterThan(1)
  })
})

describe('the event loop and Node’s own threads', () => {
  const text = Array.from({ length: 20_000 }, (_, i) => `the quick brown fox number ${i} jumps over it`).join('\n')
  const many = Array<string>(60).fill(text)

  /** Does some work beside a batch that takes far longer. That it was still running is seen by its abort. */
  async function besideABatch(work: () => Promise<void>): Promise<void> {
    const stop = new AbortController()
    const batch = tokenizer.countBatch(many, { signal: stop.signal })
    await work()
    stop.abort()
    await expect(batch).rejects.toMatchObject({ name: 'AbortError' })
  }

  test('reading a file does not wait for a batch', () =>
    besideABatch(async () => {
      expect(await readFile(__filename, 'utf8')).toContain('besideABatch')
    }))

  test('short calls are answered while a batch runs', () =>
    besideABatch(async () => {
      await new Promise((next) => setImmediate(next))
      expect(tokenizer.count('hello')).toBe(2)
      expect((await tokenizer.encodeAsync('hello')).ids).toHaveLength(2)
    }))
})

describe('results', () => {
  test('are flat typed arrays, never lists of numbers or of BigInt', async () => {
    const include = ['offsets', 'attentionMask', 'specialTokensMask', 'typeIds', 'wordIds'] as const
    const batch = await tokenizer.encodeBatch(['hello world'], { include })
    expect([batch.ids, batch.offsets, batch.rowOffsets, batch.sources].map((a) => a.constructor)).toEqual(
      Array(4).fill(Uint32Array),
    )
    expect(batch.wordIds).toBeInstanceOf(Int32Array)
    expect(batch.toPadded().ids).toBeInstanceOf(Int32Array)
    expect(batch.toPadded({ dtype: 'int64' }).ids).toBeInstanceOf(BigInt64Array)
  })

  test('have offsets that slice JavaScript strings, emoji or not', () => {
    const text = 'x🌍y z'
    const { ids, offsets } = tokenizer.encode(text, { include: ['offsets'], addSpecialTokens: false })
    expect(offsets.at(-1)).toBe(text.length)
    const encoding = tokenizer.encode(text, { include: ['offsets'] })
    expect(text.slice(...encoding.span(encoding.ids.length - 1))).toBe('z')
    expect(ids.length).toBe(encoding.ids.length - 1)
  })

  test('decode from typed arrays of every kind and from lists', () => {
    const { ids } = tokenizer.encode('hello', { addSpecialTokens: false })
    for (const form of [ids, [...ids], Int32Array.from(ids), Float64Array.from(ids)]) {
      expect(tokenizer.decode(form)).toBe('hello')
    }
  })

  test('keep a byte order mark', async () => {
    const text = '\ufeffhello'
    const { ids } = tokenizer.encode(text, { addSpecialTokens: false })
    expect(tokenizer.decode(ids)).toBe(text)
    expect(tokenizer.encode(new TextEncoder().encode(text), { addSpecialTokens: false }).ids).toEqual(ids)
    expect(tokenizer.truncateToTokens(new TextEncoder().encode(text), 100)).toBe(text)
    expect(await tokenizer.decodeBatch([ids])).toEqual([text])
  })

  test('are the same for lone surrogates as for what they become', async () => {
    for (const text of ['\ud800', 'a\udc00b', '\udc00\ud800', 'end\ud83c', '\ud83c\udf0d\udf0d']) {
      const { ids } = tokenizer.encode(text)
      expect(ids).toEqual(tokenizer.encode(text.toWellFormed()).ids)
      expect((await tokenizer.encodeBatch([text])).ids).toEqual(ids)
      expect(tokenizer.count(text)).toBe(ids.length)
    }
  })
})

describe('calls', () => {
  test('with options of their own do not disturb each other', async () => {
    const texts = Array.from({ length: 3000 }, () => 'hello world hello world')
    const [plain, cut, bare] = await Promise.all([
      tokenizer.encodeBatch(texts),
      tokenizer.encodeBatch(texts, { truncation: { maxLength: 2 } }),
      tokenizer.encodeBatch(texts, { addSpecialTokens: false }),
    ])
    expect([plain.ids.length, cut.ids.length, bare.ids.length]).toEqual([18_000, 6000, 15_000])
  })

  test('take text with special tokens in it as text, and do not throw', () => {
    expect(tokenizer.decode(tokenizer.encode('a</s>b', { addSpecialTokens: false }).ids)).toBe('a</s>b')
    expect(tokenizer.encode('a</s>b').ids).not.toContain(tokenizer.tokenToId('</s>'))
  })

  test('count without making ids, and pairs stand in batches', async () => {
    expect(tokenizer.count('hello world')).toBe(3)
    expect(tokenizer.fits('hello world', 3)).toBe(true)
    expect(tokenizer.fits('hello world', 2)).toBe(false)
    const batch = await tokenizer.encodeBatch([['hello', 'world'], 'hello'])
    expect(batch.row(0).ids).toEqual(tokenizer.encode('hello', { pair: 'world' }).ids)
  })
})
