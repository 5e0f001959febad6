// Files, texts and ids that are wrong, by accident or on purpose: a typed error or a right answer, never a crash, a hang or silence.
import { beforeAll, describe, expect, test } from 'vitest'
import { PillionError, Tokenizer } from '../src/index'
import { failure, refused, tinyTokenizer } from './helpers'

interface File {
  added_tokens: Record<string, unknown>[]
  pre_tokenizer: unknown
  normalizer: unknown
  model: { vocab: Record<string, unknown>; merges: unknown[]; [key: string]: unknown }
}

const file = (): File => structuredClone(tinyTokenizer()) as File
const load = (value: unknown): Promise<Tokenizer> => Tokenizer.fromJSON(JSON.stringify(value))

let tokenizer: Tokenizer

beforeAll(async () => {
  tokenizer = await load(file())
})

/** Random numbers that are the same in every run. */
function seeded(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state % below
  }
}

/** Loads a file if that works, and uses it; what is refused must be refused by one of our errors. */
async function errorOrTokenizer(json: string | Uint8Array): Promise<boolean> {
  try {
    const loaded = await Tokenizer.fromJSON(json)
    const { ids } = loaded.encode('hello <s> wörld', { include: ['offsets', 'wordIds'], parseSpecialTokens: true })
    loaded.decode(ids, { skipSpecialTokens: true, cleanUp: true })
    loaded.decode([0, 1, 4_294_967_295])
    return true
  } catch (error) {
    expect(error).toBeInstanceOf(PillionError)
    expect(['invalid_tokenizer', 'unsupported', 'invalid_argument']).toContain((error as PillionError).code)
    return false
  }
}

describe('a tokenizer.json', () => {
  test('that is truncated is an error, wherever it ends', async () => {
    const json = JSON.stringify(file())
    const random = seeded(1)
    for (let i = 0; i < 200; i += 1)
      await refused(Tokenizer.fromJSON(json.slice(0, random(json.length))), 'invalid_tokenizer')
  })

  test('with damaged bytes is an error or a tokenizer', async () => {
    const json = new TextEncoder().encode(JSON.stringify(file()))
    const random = seeded(2)
    let loaded = 0
    for (let i = 0; i < 600; i += 1) {
      const damaged = json.slice()
      for (let n = random(4); n >= 0; n -= 1)
        damaged[random(damaged.length)] = random(2) === 0 ? random(256) : 0x30 + random(10)
      if (await errorOrTokenizer(damaged)) loaded += 1
    }
    // Else the test would show nothing of what is done with a file that still loads.
    expect(loaded).toBeGreaterThan(10)
  })

  test('with a part replaced by something else is an error or a tokenizer', async () => {
    const strange = [
      null,
      0,
      -1,
      1e300,
      '',
      'x',
      [],
      {},
      [[]],
      { type: 'Sequence' },
      { type: 'BPE' },
      true,
      ['a', 'b', 'c'],
    ]
    const paths: string[][] = []
    const walk = (value: unknown, path: string[]): void => {
      if (path.length > 0) paths.push(path)
      if (typeof value !== 'object' || value === null || path.length > 4) return
      // A few of many equal parts are enough.
      for (const key of Object.keys(value).slice(0, 12)) walk((value as Record<string, unknown>)[key], [...path, key])
    }
    walk(file(), [])
    const random = seeded(3)
    for (const path of paths) {
      const changed = file()
      let at = changed as unknown as Record<string, unknown>
      for (const key of path.slice(0, -1)) at = at[key] as Record<string, unknown>
      at[path.at(-1) ?? ''] = strange[random(strange.length)]
      await errorOrTokenizer(JSON.stringify(changed))
    }
    expect(paths.length).toBeGreaterThan(100)
  })

  test('nested a hundred thousand deep is an error', async () => {
    await refused(Tokenizer.fromJSON('['.repeat(100_000)), 'invalid_tokenizer')
    await refused(Tokenizer.fromJSON('{"a":'.repeat(100_000)), 'invalid_tokenizer')
  })

  test('may have tokens of more than 65,535 bytes', async () => {
    const long = 'x'.repeat(70_000)
    const changed = file()
    changed.model.vocab[long] = 1000
    const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false }
    const added = 'y'.repeat(70_000)
    changed.added_tokens.push({ id: 1001, content: added, special: false, ...plain })
    const loaded = await load(changed)
    expect(loaded.tokenToId(long)).toBe(1000)
    expect(loaded.idToToken(1000)).toBe(long)
    const { ids } = await loaded.encodeAsync(`hello${added}hello`, { addSpecialTokens: false })
    expect([...ids].map((id) => loaded.idToToken(id))).toEqual(['hello', added, 'hello'])
    expect(loaded.decode([1000, loaded.tokenToId(added) ?? -1])).toBe(long + added)
  })

  test.each([2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1])('may have the id %i', async (id) => {
    const changed = file()
    changed.model.vocab['hello'] = id
    const loaded = await load(changed)
    const { ids } = loaded.encode('hello', { addSpecialTokens: false })
    expect([...ids]).toEqual([id])
    expect(loaded.idToToken(id)).toBe('hello')
    expect(loaded.tokenToId('hello')).toBe(id)
    expect(loaded.decode(ids)).toBe('hello')
    expect(loaded.decodeStream().push(id)).toBe('hello')
  })

  test.each([2 ** 32, 2 ** 53, -1, 1.5])('may not have the id %d', async (id) => {
    const changed = file()
    changed.model.vocab['hello'] = id
    await refused(load(changed), 'invalid_tokenizer')
  })

  test('may have holes in its vocabulary', async () => {
    const changed = file()
    changed.model.vocab['zzz'] = 5000
    const loaded = await load(changed)
    expect(loaded.vocabSize).toBe(tokenizer.vocabSize + 1)
    expect(loaded.idToToken(4999)).toBeUndefined()
    expect(loaded.decode([4999])).toBe('')
    expect(loaded.decode([5000])).toBe('zzz')
  })

  test('may give two tokens one id: both encode to it, and it decodes to one of them', async () => {
    const changed = file()
    const { vocab } = changed.model
    vocab['hell'] = vocab['hello']
    const loaded = await load(changed)
    const ids = (text: string): number[] => [...loaded.encode(text, { addSpecialTokens: false }).ids]
    expect(ids('hello')).toEqual([vocab['hello']])
    expect(ids('hell')).toEqual([vocab['hello']])
    expect(['hell', 'hello']).toContain(loaded.decode(ids('hello')))
  })

  test('whose merge has no result in the vocabulary is refused, and the error names it', async () => {
    const changed = file()
    delete changed.model.vocab['hell']
    const error = await refused(load(changed), 'invalid_tokenizer')
    expect(error.message).toContain('hell')
  })

  test('with a pattern that explodes gives an error on the text, within bounds, and goes on with others', async () => {
    const pattern = { Regex: String.raw`(?:(a|a)(a|a)?)+(?!\1)b` }
    const changed = file()
    const split = { type: 'Split', pattern, behavior: 'Isolated', invert: false }
    const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
    changed.pre_tokenizer = { type: 'Sequence', pretokenizers: [split, byteLevel] }
    const loaded = await load(changed)
    expect(loaded.engine.name).toBe('tokenizers')
    const error = await refused(loaded.encodeAsync('a'.repeat(200)), 'invalid_argument')
    expect(error.message).toContain('gave up')
    expect(loaded.encode('c', { addSpecialTokens: false }).ids).toHaveLength(1)
  })
})

describe('ids', () => {
  test('that no token has decode to nothing, beside those that have one', async () => {
    const [hello] = tokenizer.encode('hello', { addSpecialTokens: false }).ids
    const ids = [2 ** 31, hello!, 2 ** 32 - 1, 270, 2 ** 31 - 1]
    expect(tokenizer.decode(ids)).toBe('hello')
    expect(await tokenizer.decodeBatch([ids, [2 ** 31]])).toEqual(['hello', ''])
    const stream = tokenizer.decodeStream()
    expect(ids.map((id) => stream.push(id)).join('') + stream.end()).toBe('hello')
    expect(tokenizer.idToToken(2 ** 31)).toBeUndefined()
  })
})

describe('memory that is gone or shared', () => {
  const detached = (bytes: Uint8Array | Uint32Array): void => {
    structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] })
  }

  test('a detached buffer is refused by name, not taken for an empty text', async () => {
    const bytes = new TextEncoder().encode('hello')
    detached(bytes)
    await refused(() => tokenizer.encode(bytes), 'invalid_argument', 'text')
    await refused(() => tokenizer.count(bytes), 'invalid_argument', 'text')
    await refused(() => tokenizer.encode('a', { pair: bytes }), 'invalid_argument', 'pair')
    await refused(tokenizer.encodeAsync(bytes), 'invalid_argument', 'text')
    await refused(tokenizer.encodeBatch(['a', bytes]), 'invalid_argument', 'texts[1]')
    await refused(tokenizer.countBatch([...Array<string>(99).fill('a'), bytes]), 'invalid_argument', 'texts[99]')
    await refused(tokenizer.encodeBatch({ bytes, rowOffsets: Uint32Array.of(0, 0) }), 'invalid_argument')
    await refused(Tokenizer.fromJSON(bytes), 'invalid_argument')
    // An empty view is an empty text.
    expect(tokenizer.count(new Uint8Array())).toBe(1)

    const ids = Uint32Array.of(1, 2)
    detached(ids)
    await refused(() => tokenizer.decode(ids), 'invalid_argument', 'ids')
    await refused(tokenizer.decodeBatch([[1], ids]), 'invalid_argument', 'rows[1]')
    await refused(() => tokenizer.encodeInto('a', ids), 'invalid_argument', 'ids')
  })

  test('a buffer that is detached while it is copied is an error', async () => {
    const bytes = new TextEncoder().encode('hello '.repeat(2_000_000))
    const running = tokenizer.encodeAsync(bytes)
    setImmediate(() => detached(bytes))
    const error = await refused(running, 'invalid_argument')
    expect(error.message).toContain('detached')
  })

  test('a SharedArrayBuffer is read like any other', async () => {
    const bytes = new Uint8Array(new SharedArrayBuffer(5))
    bytes.set(new TextEncoder().encode('hello'))
    const { ids } = tokenizer.encode('hello')
    expect(tokenizer.encode(bytes).ids).toEqual(ids)
    expect((await tokenizer.encodeBatch([bytes])).ids).toEqual(ids)
    const rowOffsets = new Uint32Array(new SharedArrayBuffer(8))
    rowOffsets[1] = 5
    expect((await tokenizer.encodeBatch({ bytes, rowOffsets })).ids).toEqual(ids)

    const shared = new Uint32Array(new SharedArrayBuffer(4 * ids.length))
    expect(tokenizer.encodeInto(bytes, shared)).toBe(ids.length)
    expect([...shared]).toEqual([...ids])
    expect(tokenizer.decode(shared, { skipSpecialTokens: true })).toBe('hello')
    expect(await tokenizer.decodeBatch([shared], { skipSpecialTokens: true })).toEqual(['hello'])
    expect(tokenizer.decodeStream({ skipSpecialTokens: true }).push(shared)).toBe('hello')
  })

  test('a resizable buffer is read as long as it is now', () => {
    const buffer = new (ArrayBuffer as new (length: number, options: { maxByteLength: number }) => ArrayBuffer)(5, {
      maxByteLength: 10,
    })
    const bytes = new Uint8Array(buffer)
    bytes.set(new TextEncoder().encode('hello'))
    ;(buffer as ArrayBuffer & { resize(length: number): void }).resize(4)
    expect(tokenizer.encode(bytes).ids).toEqual(tokenizer.encode('hell').ids)
  })
})

describe('a text of 600 MB', () => {
  const bytes = 600_000_000
  let text: Uint8Array

  beforeAll(() => {
    const words = new TextEncoder().encode('hello world, hello hello world ')
    text = new Uint8Array(bytes)
    text.set(words)
    for (let n = words.length; n < bytes; n *= 2) text.copyWithin(n, 0, Math.min(n, bytes - n))
  })

  test('is refused where it would take too much memory, with what would fit', async () => {
    const reference = await load({
      ...file(),
      normalizer: { type: 'Replace', pattern: { String: '\u0001' }, content: '' },
    })
    expect(reference.engine.name).toBe('tokenizers')
    const error = await refused(reference.encodeAsync(text), 'invalid_argument')
    expect(error.message).toContain('67108864 bytes of one text')
  })

  test('can be taken back in the middle; the threads are free again', async () => {
    const controller = new AbortController()
    // Long enough to be a piece of work of its own: when it is done, the others are under way.
    const first = 'hello '.repeat(8000)
    const running = tokenizer.encodeBatch([first, text, text.subarray(7)], {
      signal: controller.signal,
      onProgress: () => controller.abort('enough'),
    })
    expect(await failure(running)).toBe('enough')
    expect((await tokenizer.encodeBatch(Array<string>(1000).fill('hello hello'))).rows).toBe(1000)
  })

  // Minutes in a debug build.
  test.runIf(process.env['PILLION_TEST_RELEASE'] === '1')('is encoded, and lets the event loop turn', async () => {
    let turns = 0
    const turn = setInterval(() => (turns += 1), 1)
    const { ids } = await tokenizer.encodeAsync(text, { addSpecialTokens: false })
    clearInterval(turn)
    expect(turns).toBeGreaterThan(50)
    const words = tokenizer.encode('hello world, hello hello world ', { addSpecialTokens: false })
    const per = words.ids.length
    expect(ids.length).toBeGreaterThan((bytes / 32) * (per - 1))
    expect([...ids.subarray(per * 1000 - 3, per * 1000 + 3)]).toEqual(
      [...tokenizer.encode('hello world, hello hello world '.repeat(1001), { addSpecialTokens: false }).ids].slice(
        per * 1000 - 3,
        per * 1000 + 3,
      ),
    )
  })
})
