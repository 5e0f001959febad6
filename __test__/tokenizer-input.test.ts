// How texts get in and ids get out: strings, bytes, packed texts, the caller's array, small calls done at once, long texts in slices.
import { beforeAll, describe, expect, test } from 'vitest'
import { Tokenizer, type PackedTexts } from '../src/index'
import { failure, refused, tinyTokenizer } from './helpers'

let tokenizer: Tokenizer
/** The same on the reference engine, which takes the same way in. */
let reference: Tokenizer

beforeAll(async () => {
  tokenizer = await Tokenizer.fromJSON(JSON.stringify(tinyTokenizer()))
  // A normalizer that our own engine leaves to the reference and that changes nothing here.
  const file = { ...tinyTokenizer(), normalizer: { type: 'Replace', pattern: { String: '\u0001' }, content: '' } }
  reference = await Tokenizer.fromJSON(JSON.stringify(file))
  expect([tokenizer.engine.name, reference.engine.name]).toEqual(['pillion', 'tokenizers'])
})

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

function pack(texts: readonly string[]): PackedTexts {
  const rowOffsets = new Uint32Array(texts.length + 1)
  for (const [i, text] of texts.entries()) rowOffsets[i + 1] = (rowOffsets[i] ?? 0) + utf8(text).length
  return { bytes: utf8(texts.join('')), rowOffsets }
}

const texts = ['hello world', '', 'naïve 🌍', 'a', '日本語', 'hello '.repeat(100)]

describe('encodeInto', () => {
  test('writes what encode gives, from the beginning, and touches nothing else', () => {
    for (const each of [tokenizer, reference]) {
      for (const text of texts) {
        const { ids } = each.encode(text)
        const target = new Uint32Array(ids.length + 2).fill(7)
        expect(each.encodeInto(text, target)).toBe(ids.length)
        expect([...target]).toEqual([...ids, 7, 7])
        expect(each.encodeInto(utf8(text), target)).toBe(ids.length)
      }
    }
  })

  test('takes a view into a larger buffer, an exact fit and every option that needs no column', () => {
    const buffer = new Uint32Array(8).fill(7)
    const options = { pair: 'world', addSpecialTokens: false, parseSpecialTokens: true, truncation: { maxLength: 2 } }
    const { ids } = tokenizer.encode('</s>hello', options)
    expect(ids).toHaveLength(2)
    expect(tokenizer.encodeInto('</s>hello', buffer.subarray(3, 5), options)).toBe(2)
    expect([...buffer]).toEqual([7, 7, 7, ...ids, 7, 7, 7])
  })

  test('an array that is too short is an error that says how long it must be, and stays as it is', async () => {
    const target = new Uint32Array(2).fill(7)
    const error = await refused(() => tokenizer.encodeInto('hello world', target), 'invalid_argument', 'ids')
    expect(error.message).toBe("ids must be long enough for the text's 3 ids, got 2 entries")
    expect([...target]).toEqual([7, 7])
    await refused(() => tokenizer.encodeInto('a', new Uint32Array(0)), 'invalid_argument', 'ids')
    await refused(() => tokenizer.encodeInto('a', new Int32Array(9) as never), 'invalid_argument', 'ids')
    await refused(() => tokenizer.encodeInto('a', target, { include: [] } as never), 'invalid_argument', 'include')
    const long = await refused(() => tokenizer.encodeInto('a'.repeat(65_537), target), 'invalid_argument', 'text')
    expect(long.remedy).toContain('encodeAsync')
  })
})

describe('packed texts', () => {
  test('are what an array of the same texts is', async () => {
    for (const each of [tokenizer, reference]) {
      const expected = await each.encodeBatch(texts, { include: ['wordIds'] })
      const packed = await each.encodeBatch(pack(texts), { include: ['wordIds'] })
      expect(packed.ids).toEqual(expected.ids)
      expect(packed.rowOffsets).toEqual(expected.rowOffsets)
      expect(packed.wordIds).toEqual(expected.wordIds)
      expect(await each.countBatch(pack(texts))).toEqual(await each.countBatch(texts))
    }
  })

  test('count offsets from the beginning of each text, and may leave bytes out', async () => {
    const { bytes } = pack(['xxhello world'])
    const batch = await tokenizer.encodeBatch(
      { bytes, rowOffsets: Uint32Array.of(2, 7, 7, 13) },
      { include: ['offsets'] },
    )
    expect([...batch].map((row) => row.tokens())).toEqual([['<s>', 'hello'], ['<s>'], ['<s>', 'Ġworld']])
    expect(batch.row(2).span(1)).toEqual([0, 6])
  })

  test('may be many, none, or of no length', async () => {
    const many = pack(Array.from({ length: 50_000 }, (_, i) => `hello ${i}`))
    const seen: number[] = []
    const batch = await tokenizer.encodeBatch(many, { onProgress: (done) => seen.push(done) })
    expect(batch.rows).toBe(50_000)
    expect(tokenizer.decode(batch.row(49_999).ids, { skipSpecialTokens: true })).toBe('hello 49999')
    expect(seen.at(-1)).toBe(50_000)
    expect((await tokenizer.encodeBatch({ bytes: new Uint8Array(), rowOffsets: Uint32Array.of(0) })).rows).toBe(0)
    expect((await tokenizer.encodeBatch({ bytes: new Uint8Array(), rowOffsets: Uint32Array.of(0, 0) })).rows).toBe(1)
  })

  test('that contradict themselves are refused by name', async () => {
    const bytes = utf8('hello')
    for (const rowOffsets of [Uint32Array.of(0, 6), Uint32Array.of(3, 2), Uint32Array.of(0, 2 ** 32 - 1)]) {
      await refused(tokenizer.encodeBatch({ bytes, rowOffsets }), 'invalid_argument', 'rowOffsets')
      await refused(tokenizer.countBatch({ bytes, rowOffsets }), 'invalid_argument', 'rowOffsets')
    }
    const bad = (value: object): Promise<unknown> =>
      refused(tokenizer.encodeBatch(value as never), 'invalid_argument').then((error) => error.param)
    expect(await bad({ bytes, rowOffsets: new Uint32Array() })).toBe('texts.rowOffsets')
    expect(await bad({ bytes, rowOffsets: [0, 5] })).toBe('texts.rowOffsets')
    expect(await bad({ bytes: 'hello', rowOffsets: Uint32Array.of(0) })).toBe('texts.bytes')
    expect(await bad({ bytes })).toBe('texts')
    // A row that cuts a character is named.
    const cut = await refused(
      tokenizer.encodeBatch({ bytes: utf8('aé'), rowOffsets: Uint32Array.of(0, 1, 2) }),
      'invalid_argument',
      'text',
    )
    expect(cut.message).toContain('of text 1')
  })
})

describe('small calls, which are done at once', () => {
  // The reference engine is slower, so fewer units count as small there: both sides of each border.
  const sizes = [1, 127, 128, 129, 1365, 1366, 8191, 8192, 8193, 20_000]

  test('give what the pool gives', async () => {
    for (const each of [tokenizer, reference]) {
      for (const size of sizes) {
        const text = 'hello world '.repeat(2000).slice(0, size)
        const { ids, offsets } = each.encode(text, { include: ['offsets'] })
        const single = await each.encodeAsync(text, { include: ['offsets'] })
        expect(single.ids).toEqual(ids)
        expect(single.offsets).toEqual(offsets)
        expect((await each.encodeAsync(text, { addSpecialTokens: false })).ids).toEqual(ids.subarray(1))
        const batch = await each.encodeBatch(Array<string>(6).fill(text), { include: ['offsets'] })
        expect(batch.row(5).ids).toEqual(ids)
        expect(batch.row(5).offsets).toEqual(offsets)
        expect([...(await each.countBatch([text, text]))]).toEqual([ids.length, ids.length])
      }
    }
  })

  test('fail as others do: by rejecting', async () => {
    await refused(tokenizer.encodeBatch([new Uint8Array([0xff])]), 'invalid_argument', 'text')
    await refused(tokenizer.encodeBatch(['a', {} as never]), 'invalid_argument', 'texts[1]')
    await refused(tokenizer.countBatch(['a', 7 as never]), 'invalid_argument', 'texts[1]')
    await refused(tokenizer.encodeAsync(new Uint8Array([0xff])), 'invalid_argument', 'text')
    const signal = AbortSignal.abort('mine')
    expect(await failure(tokenizer.encodeBatch(['a'], { signal }))).toBe('mine')
    expect(await failure(tokenizer.encodeAsync('a', { signal }))).toBe('mine')
  })
})

describe('texts that are copied in slices', () => {
  // A slice of two million units may end within the surrogate pair or the bytes of a character.
  const body = 'hello 🌍é '.repeat(220_000)
  // Deep equality of arrays of this length takes the test runner seconds.
  const same = (a: Uint32Array, b: Uint32Array): boolean => Buffer.from(a.buffer).equals(Buffer.from(b.buffer))

  test.each([0, 1, 2, 3])('keep their characters, shifted by %i', async (shift) => {
    const text = 'x'.repeat(shift) + body
    const { ids } = await tokenizer.encodeAsync(text)
    expect(same(ids, (await tokenizer.encodeAsync(utf8(text))).ids)).toBe(true)
    expect((await tokenizer.decodeBatch([ids], { skipSpecialTokens: true }))[0] === text).toBe(true)
  })

  test('stand beside short ones and in pairs', async () => {
    const batch = await tokenizer.encodeBatch(['hello', ['a', body], utf8(body), 'hello'])
    const [short, pair, long, last] = [...batch].map((row) => row.ids.slice())
    expect(same(long!, (await tokenizer.encodeAsync(body)).ids)).toBe(true)
    // Both begin with one special token; the pair has the short text and another special token before the long one.
    expect(same(pair!.slice(3), long!.slice(1))).toBe(true)
    expect([short, last]).toEqual([tokenizer.encode('hello').ids, tokenizer.encode('hello').ids])
  })

  test('give rows in their order, more of them than wait at once', async () => {
    const many = Array.from({ length: 3000 }, (_, i) => `${i} ${'hello world '.repeat(i % 400)}`)
    for (const each of [tokenizer, reference]) {
      const batch = await each.encodeBatch(many, { include: ['offsets'] })
      expect(batch.rows).toBe(many.length)
      for (const i of [0, 1, 399, 1500, 2998, 2999]) {
        const alone = each.encode(many[i]!, { include: ['offsets'] })
        expect([[...batch.row(i).ids], [...batch.row(i).offsets]]).toEqual([[...alone.ids], [...alone.offsets]])
      }
    }
  })

  test('are those that there were when the call was made', async () => {
    const make = (): string[] => Array.from({ length: 3000 }, () => 'hello world '.repeat(100))
    const longer = make()
    const call = tokenizer.encodeBatch(longer)
    longer.push('one more')
    expect((await call).rows).toBe(3000)

    const shorter = make()
    const failing = tokenizer.encodeBatch(shorter)
    shorter.length = 10
    expect((await refused(failing, 'invalid_argument')).message).toMatch(/texts\[\d+\].*undefined/)
  })

  test('name what is wrong with them', async () => {
    await refused(tokenizer.encodeBatch(['a', [body, 7] as never]), 'invalid_argument', 'texts[1][1]')
    await refused(tokenizer.encodeBatch([[body, 'a', 'b'] as never]), 'invalid_argument', 'texts[0]')
  })
})
