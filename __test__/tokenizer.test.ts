import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { Tokenizer } from '../src/index'
import { failure, refused, tempFolder, tinyModelFolder, tinyTokenizer } from './helpers'

let tokenizer: Tokenizer

beforeAll(async () => {
  tokenizer = await Tokenizer.fromJSON(JSON.stringify(tinyTokenizer()))
})

const texts = [
  'hello world',
  '',
  ' ',
  'a🌍b',
  'naïve café',
  '日本語テキスト',
  '👩‍👩‍👧 family',
  'tabs\tand\nnewlines\r\n',
  'x'.repeat(3000),
  '“curly” quotes…',
]

describe('loading', () => {
  test('from a path, a file URL, bytes and a folder gives the same ids', async () => {
    const folder = tinyModelFolder()
    const file = join(folder, 'tokenizer.json')
    const expected = tokenizer.encode('hello world').ids
    for (const loaded of [
      await Tokenizer.fromFile(file),
      await Tokenizer.fromFile(pathToFileURL(file)),
      await Tokenizer.fromJSON(readFileSync(file)),
      await Tokenizer.fromPretrained(folder),
    ]) {
      expect(loaded.encode('hello world').ids).toEqual(expected)
      expect(loaded.vocabSize).toBe(256 + 9 + 5)
      expect(['pillion', 'tokenizers']).toContain(loaded.engine.name)
    }
  })

  test('bad files are typed errors', async () => {
    const folder = tempFolder()
    const missing = await refused(Tokenizer.fromFile(join(folder, 'tokenizer.json')), 'model_not_found')
    expect(missing.message).toContain(folder)
    await refused(Tokenizer.fromPretrained(folder), 'model_not_found')
    await refused(Tokenizer.fromPretrained(join(folder, 'no-such')), 'model_not_found')
    for (const text of ['', '{', 'null', '[]', '{}', '{"model":{}}', '{"model":{"type":"BPE"}}', '\u0000']) {
      writeFileSync(join(folder, 'tokenizer.json'), text)
      await refused(Tokenizer.fromFile(join(folder, 'tokenizer.json')), 'invalid_tokenizer')
      await refused(Tokenizer.fromJSON(text), 'invalid_tokenizer')
    }
    await refused(() => Tokenizer.fromFile(7 as never), 'invalid_argument', 'path')
    await refused(() => Tokenizer.fromJSON({} as never), 'invalid_argument', 'json')
  })

  test('a signal that is aborted already rejects with its reason', async () => {
    const reason = { mine: true }
    const signal = AbortSignal.abort(reason)
    const json = JSON.stringify(tinyTokenizer())
    expect(await failure(Tokenizer.fromJSON(json, { signal }))).toBe(reason)
    expect(await failure(Tokenizer.fromFile('anywhere', { signal }))).toBe(reason)
  })

  test('a missing hub id says that nothing is downloaded', async () => {
    const error = await refused(Tokenizer.fromPretrained('no-such-org/no-such-model'), 'model_not_found')
    expect(error.remedy).toContain('nothing is downloaded')
  })
})

describe('encode and decode', () => {
  test('merges, adds its special token, and comes back', () => {
    const { ids } = tokenizer.encode('hello world')
    expect(tokenizer.encode('hello world').tokens()).toEqual(['<s>', 'hello', 'Ġworld'])
    expect(tokenizer.decode(ids)).toBe('<s>hello world')
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe('hello world')
    expect(tokenizer.decode([...ids], { skipSpecialTokens: true })).toBe('hello world')
  })

  test.each(texts)('round trip: %j', async (text) => {
    const { ids } = tokenizer.encode(text, { addSpecialTokens: false })
    expect(tokenizer.decode(ids)).toBe(text)
    expect((await tokenizer.encodeAsync(text, { addSpecialTokens: false })).ids).toEqual(ids)
    expect(tokenizer.encode(new TextEncoder().encode(text), { addSpecialTokens: false }).ids).toEqual(ids)
    expect(tokenizer.count(text)).toBe(ids.length + 1)
    const stream = tokenizer.decodeStream()
    expect([...ids].map((id) => stream.push(id)).join('') + stream.end()).toBe(text)
  })

  test('a lone surrogate becomes U+FFFD and keeps offsets true', () => {
    for (const text of ['\ud800', 'a\udc00b', '\ud800\ud800\udc00', 'end\ud83c']) {
      const { ids, offsets } = tokenizer.encode(text, { addSpecialTokens: false, include: ['offsets'] })
      expect(tokenizer.decode(ids)).toBe(text.toWellFormed())
      expect(offsets.at(-1)).toBe(text.length)
    }
  })

  test('bytes that are not UTF-8 are refused', async () => {
    await refused(() => tokenizer.encode(new Uint8Array([0x61, 0xff])), 'invalid_argument', 'text')
    await refused(tokenizer.encodeBatch(['a', new Uint8Array([0xff])]), 'invalid_argument', 'text')
  })

  test('columns are there only when asked for', () => {
    const plain = tokenizer.encode('hello')
    expect(Object.keys(plain)).toEqual(['ids'])
    const include = ['offsets', 'attentionMask', 'specialTokensMask', 'typeIds', 'wordIds'] as const
    const all = tokenizer.encode('hello 🌍!', { include })
    expect(all.specialTokensMask[0]).toBe(1)
    expect(all.wordIds[0]).toBe(-1)
    expect([...all.attentionMask]).toEqual([...all.ids].map(() => 1))
    expect(all.span(1)).toEqual([0, 5])
    expect('hello 🌍!'.slice(...all.span(all.ids.length - 1))).toBe('!')
  })

  test('offsets in the unit that was asked for', () => {
    const last = (offsetUnit: 'utf16' | 'codepoint' | 'byte'): number | undefined =>
      tokenizer.encode('é🌍', { include: ['offsets'], offsetUnit }).offsets.at(-1)
    expect(last('utf16')).toBe(3)
    expect(last('codepoint')).toBe(2)
    expect(last('byte')).toBe(6)
  })

  test('pairs, and their segments', () => {
    const pair = tokenizer.encode('hello', { pair: 'world', include: ['typeIds'] })
    expect(pair.tokens().slice(0, 3)).toEqual(['<s>', 'hello', '</s>'])
    expect(pair.typeIds.at(-1)).toBe(1)
  })

  test('special tokens in a text are parsed only when asked', () => {
    const count = (parseSpecialTokens?: boolean | string[]): number =>
      tokenizer.encode('</s>', { addSpecialTokens: false, parseSpecialTokens }).ids.length
    expect(count()).toBeGreaterThan(1)
    expect(count(true)).toBe(1)
    expect(count(['</s>'])).toBe(1)
    expect(count(['<s>'])).toBeGreaterThan(1)
  })

  test('truncation', async () => {
    const truncation = { maxLength: 3 }
    expect(tokenizer.encode('hello world hello', { truncation }).tokens()).toEqual(['<s>', 'hello', 'Ġworld'])
    const batch = await tokenizer.encodeBatch(['hello world', 'a b c d e'], {
      truncation: { maxLength: 3, overflow: true },
    })
    expect(batch.rows).toBeGreaterThan(2)
    expect(batch.sources[0]).toBe(0)
    expect(batch.sources.at(-1)).toBe(1)
  })

  test('the vocabulary', () => {
    expect(tokenizer.idToToken(tokenizer.tokenToId('hello') ?? -1)).toBe('hello')
    expect(tokenizer.tokenToId('no such token')).toBeUndefined()
    for (const id of [99_999, -1, 1.5, 2 ** 32, NaN]) expect(tokenizer.idToToken(id)).toBeUndefined()
  })

  test('short calls refuse what would hold up the event loop, and name the other form', async () => {
    const long = 'a'.repeat(65_537)
    expect(tokenizer.count('a'.repeat(65_536))).toBeGreaterThan(0)
    expect((await refused(() => tokenizer.encode(long), 'invalid_argument', 'text')).message).toContain('encodeAsync')
    expect((await refused(() => tokenizer.encode('a', { pair: long }), 'invalid_argument')).message).toContain(
      'encodeAsync',
    )
    expect((await refused(() => tokenizer.count(long), 'invalid_argument', 'text')).message).toContain('countBatch')
    expect((await refused(() => tokenizer.fits(long, 9), 'invalid_argument', 'text')).message).toContain('countBatch')
    await refused(() => tokenizer.truncateToTokens(long, 9), 'invalid_argument', 'text')
    const ids = new Uint32Array(65_537)
    expect((await refused(() => tokenizer.decode(ids), 'invalid_argument', 'ids')).message).toContain('decodeBatch')
    expect((await tokenizer.encodeAsync(long)).ids.length).toBeGreaterThan(65_000)
    expect(await tokenizer.decodeBatch([ids])).toHaveLength(1)
  })

  test('what is no id is refused, and an id that no token has gives nothing', async () => {
    for (const ids of [[-1], [1.5], [NaN], [2 ** 32], ['1' as never], [null as never]]) {
      await refused(() => tokenizer.decode(ids), 'invalid_argument')
    }
    await refused(() => tokenizer.decode(undefined as never), 'invalid_argument', 'ids')
    await refused(() => tokenizer.decode('text' as never), 'invalid_argument', 'ids')
    expect(tokenizer.decode([99_999, 4_294_967_295])).toBe('')
  })

  test('fits and truncateToTokens agree', () => {
    for (const text of [...texts, 'hello world hello world']) {
      for (const max of [0, 1, 2, 3, 5, 10]) {
        for (const side of ['right', 'left'] as const) {
          const cut = tokenizer.truncateToTokens(text, max, { side })
          expect(side === 'right' ? text.startsWith(cut) : text.endsWith(cut)).toBe(true)
          expect(cut.isWellFormed()).toBe(true)
          // The template's own token does not fit into 0.
          expect(cut === '' || tokenizer.fits(cut, max)).toBe(true)
          if (tokenizer.fits(text, max)) expect(cut).toBe(text)
        }
      }
    }
    expect(tokenizer.truncateToTokens('hello world', 2)).toBe('hello')
    expect(tokenizer.truncateToTokens('hello world', 2, { side: 'left' })).toBe(' world')
    expect(tokenizer.truncateToTokens(new TextEncoder().encode('é🌍'), 3)).toBe('é')
  })
})

describe('batches', () => {
  test('are what single calls give, row by row', async () => {
    const batch = await tokenizer.encodeBatch(texts, { include: ['offsets'] })
    expect(batch.rows).toBe(texts.length)
    expect(batch.rowOffsets).toHaveLength(texts.length + 1)
    for (const [i, row] of [...batch].entries()) {
      const single = tokenizer.encode(texts[i] ?? '', { include: ['offsets'] })
      expect(row.ids).toEqual(single.ids)
      expect(row.offsets).toEqual(single.offsets)
      expect(row.ids.buffer).toBe(batch.ids.buffer)
    }
    expect(await tokenizer.countBatch(texts)).toEqual(Uint32Array.from(texts, (text) => tokenizer.count(text)))
    expect(await tokenizer.decodeBatch(batch, { skipSpecialTokens: true })).toEqual(texts)
    expect(
      await tokenizer.decodeBatch(
        [...batch].map((row) => [...row.ids]),
        { skipSpecialTokens: true },
      ),
    ).toEqual(texts)
  })

  test('hold strings, bytes and pairs side by side', async () => {
    const batch = await tokenizer.encodeBatch(['hello', new TextEncoder().encode('hello'), ['hello', 'world']])
    expect(batch.row(0).ids).toEqual(batch.row(1).ids)
    expect(batch.row(2).ids).toEqual(tokenizer.encode('hello', { pair: 'world' }).ids)
  })

  test('may be empty', async () => {
    const batch = await tokenizer.encodeBatch([])
    expect([batch.rows, [...batch.rowOffsets], batch.ids.length]).toEqual([0, [0], 0])
    expect(await tokenizer.countBatch([])).toHaveLength(0)
    expect(await tokenizer.decodeBatch([])).toEqual([])
    expect(batch.toPadded().shape).toEqual([0, 0])
  })

  test('name the text that is none', async () => {
    await refused(tokenizer.encodeBatch(['a', 7 as never]), 'invalid_argument', 'texts[1]')
    await refused(tokenizer.encodeBatch([['a', null as never]]), 'invalid_argument', 'texts[0][1]')
    await refused(tokenizer.encodeBatch([['a'] as never]), 'invalid_argument', 'texts[0]')
    await refused(tokenizer.encodeBatch('abc' as never), 'invalid_argument', 'texts')
    await refused(tokenizer.countBatch([undefined as never]), 'invalid_argument', 'texts[0]')
    await refused(tokenizer.decodeBatch([[1], [-1]]), 'invalid_argument', 'rows[1][0]')
    await refused(
      tokenizer.decodeBatch({ ids: new Uint32Array(1), rowOffsets: Uint32Array.of(0, 9) }),
      'invalid_argument',
      'rowOffsets',
    )
  })

  test('rows are checked', async () => {
    const batch = await tokenizer.encodeBatch(['a'])
    for (const row of [-1, 1, 0.5]) await refused(() => batch.row(row), 'invalid_argument', 'row')
    await refused(() => batch.row(0).span(0), 'invalid_argument', 'include')
  })

  test('pad to a rectangle', async () => {
    const batch = await tokenizer.encodeBatch(['hello', 'hello world hello'])
    const [short, long] = [batch.row(0).ids, batch.row(1).ids]
    const right = batch.toPadded({ padId: 9 })
    expect(right.shape).toEqual([2, long.length])
    const fill = (value: number): number[] => Array<number>(long.length - short.length).fill(value)
    expect([...right.ids.slice(0, long.length)]).toEqual([...short, ...fill(9)])
    expect([...right.attentionMask.slice(0, long.length)]).toEqual([1, 1, ...fill(0)])
    const left = batch.toPadded({ side: 'left', multipleOf: 8, dtype: 'int64' })
    expect(left.shape).toEqual([2, 8])
    expect(left.ids.at(7)).toBe(BigInt(short.at(-1) ?? -1))
    expect(left.attentionMask.at(0)).toBe(0n)
    await refused(() => batch.toPadded({ length: 2 }), 'invalid_argument', 'length')
  })

  test('an abort ends the work and rejects with the reason', async () => {
    const controller = new AbortController()
    const many = Array.from({ length: 200_000 }, (_, i) => `text number ${i} for the batch`)
    const running = tokenizer.encodeBatch(many, { signal: controller.signal })
    const reason = new Error('enough')
    setImmediate(() => controller.abort(reason))
    expect(await failure(running)).toBe(reason)
    // The pool is free again: this would otherwise wait for the batch.
    expect((await tokenizer.encodeBatch(['hello'])).rows).toBe(1)
  })

  test('a deadline rejects', async () => {
    const many = Array.from({ length: 200_000 }, (_, i) => `text number ${i} for the batch`)
    const error = await refused(tokenizer.encodeBatch(many, { timeoutMs: 1 }), 'deadline_exceeded', 'timeoutMs')
    expect(error.retryable).toBe(true)
  })

  test('tell how far they are, ascending and to the end', async () => {
    const seen: number[] = []
    const many = Array.from({ length: 20_000 }, (_, i) => `text ${i}`)
    await tokenizer.encodeBatch(many, {
      onProgress: (done, total) => {
        seen.push(done)
        expect(total).toBe(20_000)
      },
    })
    expect(seen.at(-1)).toBe(20_000)
    expect(seen).toEqual([...seen].sort((a, b) => a - b))
    expect(seen.length).toBeLessThanOrEqual(101)
  })

  test('a listener that throws is reported and does not spoil the batch', async () => {
    const warnings: unknown[] = []
    const listen = (warning: unknown): unknown => warnings.push(warning)
    process.on('warning', listen)
    onTestFinished(() => {
      process.off('warning', listen)
    })
    const batch = await tokenizer.encodeBatch(['a'], {
      onProgress: () => {
        throw new Error('mine')
      },
    })
    expect(batch.rows).toBe(1)
    await new Promise((next) => setImmediate(next))
    expect(String(warnings[0])).toContain('mine')
  })

  test('let the event loop turn', async () => {
    const many = Array.from({ length: 150_000 }, (_, i) => `the quick brown fox number ${i} jumps over it`)
    let done = false
    let turns = 0
    const turn = (): void => {
      turns += 1
      if (!done) setImmediate(turn)
    }
    setImmediate(turn)
    await tokenizer.encodeBatch(many)
    done = true
    expect(turns).toBeGreaterThan(10)
  })
})

describe('decodeStream', () => {
  test('never gives half of a character', () => {
    const { ids } = tokenizer.encode('🌍é', { addSpecialTokens: false })
    const stream = tokenizer.decodeStream()
    const pieces = [...ids].map((id) => stream.push(id))
    expect(pieces.join('')).toBe('🌍é')
    expect(pieces.every((piece) => piece.isWellFormed())).toBe(true)
    expect(pieces[0]).toBe('')
  })

  test('gives what is incomplete at the end as U+FFFD, and begins anew', () => {
    const { ids } = tokenizer.encode('🌍', { addSpecialTokens: false })
    const stream = tokenizer.decodeStream()
    expect(stream.push(ids.subarray(0, 2))).toBe('')
    expect(stream.end()).toContain('\ufffd')
    expect(stream.push(ids)).toBe('🌍')
  })

  // Streams keep texts for each other; what one keeps must be right for all, whatever came before.
  test.each(['ByteLevel', 'Metaspace', 'WordPiece', 'llama', 'CTC', 'BPEDecoder', 'none'])(
    'gives what decode gives, many streams at once: %s',
    async (kind) => {
      const parts: Record<string, object | null> = {
        Metaspace: { type: 'Metaspace', replacement: 'Ġ', prepend_scheme: 'always', split: true },
        WordPiece: { type: 'WordPiece', prefix: 'l', cleanup: true },
        llama: {
          type: 'Sequence',
          decoders: [
            { type: 'Replace', pattern: { String: 'Ġ' }, content: ' ' },
            { type: 'ByteFallback' },
            { type: 'Fuse' },
            { type: 'Strip', content: ' ', start: 1, stop: 0 },
          ],
        },
        CTC: { type: 'CTC', pad_token: '<pad>', word_delimiter_token: 'Ġ', cleanup: true },
        BPEDecoder: { type: 'BPEDecoder', suffix: 'o' },
        none: null,
      }
      const file = tinyTokenizer()
      const decoder = kind in parts ? { decoder: parts[kind] } : {}
      const each = await Tokenizer.fromJSON(JSON.stringify({ ...file, ...decoder }))
      const known = each.encode('hello 🌍 é, l ll world </s>hello', { parseSpecialTokens: true }).ids
      let seed = 7
      const below = (n: number): number => (seed = (Math.imul(seed, 48_271) >>> 0) % 0x7fff_ffff) % n
      for (const skipSpecialTokens of [false, true]) {
        for (const cleanUp of [false, true]) {
          const streams = Array.from({ length: 6 }, () => ({
            stream: each.decodeStream({ skipSpecialTokens, cleanUp }),
            ids: [] as number[],
            text: '',
          }))
          for (let step = 0; step < 3000; step += 1) {
            const one = streams[below(streams.length)]!
            if (below(40) === 0) {
              expect(one.text + one.stream.end()).toBe(each.decode(one.ids, { skipSpecialTokens, cleanUp }))
              Object.assign(one, { ids: [], text: '' })
              continue
            }
            const ids = Array.from({ length: below(8) === 0 ? below(4) : 1 }, () =>
              below(3) === 0 ? below(300) : known[below(known.length)]!,
            )
            one.ids.push(...ids)
            one.text += one.stream.push(ids.length === 1 ? ids[0]! : ids)
          }
        }
      }
    },
  )

  test('skips special tokens when told, and refuses what is no id', async () => {
    const stream = tokenizer.decodeStream({ skipSpecialTokens: true })
    expect(stream.push(tokenizer.encode('hello').ids)).toBe('hello')
    await refused(() => stream.push(-1), 'invalid_argument')
  })
})

describe('applyChatTemplate', () => {
  test('renders with the model’s template or another', async () => {
    const model = await Tokenizer.fromPretrained(tinyModelFolder())
    const messages = [{ role: 'user', content: 'hi' }]
    expect(model.applyChatTemplate(messages)).toBe('<s><|user|>hi')
    expect(model.applyChatTemplate(messages, { addGenerationPrompt: true })).toBe('<s><|user|>hi<|assistant|>')
    const template = '{{ greeting }} {{ messages[0].content }}'
    expect(model.applyChatTemplate(messages, { template, variables: { greeting: 'Hey' } })).toBe('Hey hi')
    expect(model.applyChatTemplate([{ role: 'user', content: 'lone \ud800 \\ud800' }])).toBe(
      '<s><|user|>lone \ufffd \\ud800',
    )
  })

  test('bad messages and templates are typed errors', async () => {
    const model = await Tokenizer.fromPretrained(tinyModelFolder())
    const messages = [{ role: 'user', content: 'hi' }]
    await refused(() => tokenizer.applyChatTemplate(messages), 'unsupported')
    await refused(() => model.applyChatTemplate(messages, { template: '{% for %}' }), 'invalid_argument')
    await refused(
      () => model.applyChatTemplate(messages, { template: '{{ raise_exception("no") }}' }),
      'invalid_argument',
    )
    await refused(() => model.applyChatTemplate('hi' as never), 'invalid_argument', 'messages')
    await refused(() => model.applyChatTemplate([{ content: 'hi' } as never]), 'invalid_argument', 'messages[0].role')
    await refused(() => model.applyChatTemplate([{ role: 'user', content: 7 as never }]), 'invalid_argument')
    // An endless template is cut off.
    const endless = '{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}'
    await refused(() => model.applyChatTemplate(messages, { template: endless }), 'invalid_argument')
  })
})

describe('options', () => {
  test('an unknown name is refused with the nearest known one', async () => {
    const error = await refused(() => tokenizer.encode('a', { add_special_tokens: false } as never), 'invalid_argument')
    expect(error.message).toContain('addSpecialTokens')
    await refused(tokenizer.encodeBatch(['a'], { pair: 'b' } as never), 'invalid_argument', 'pair')
    await refused(tokenizer.countBatch(['a'], { signl: undefined } as never), 'invalid_argument', 'signl')
    await refused(() => tokenizer.decode([1], { skipSpecial: true } as never), 'invalid_argument', 'skipSpecial')
    await refused(
      () => tokenizer.encode('a', { truncation: { maxLenght: 3 } as never }),
      'invalid_argument',
      'maxLenght',
    )
  })

  test('a wrong type or value is refused by name', async () => {
    await refused(() => tokenizer.encode('a', { include: ['ofsets' as never] }), 'invalid_argument', 'include')
    await refused(() => tokenizer.encode('a', { offsetUnit: 'char' as never }), 'invalid_argument', 'offsetUnit')
    await refused(() => tokenizer.encode('a', { truncation: {} as never }), 'invalid_argument')
    await refused(() => tokenizer.encode('a', { truncation: { maxLength: -1 } }), 'invalid_argument', 'maxLength')
    await refused(() => tokenizer.encode(7 as never), 'invalid_argument', 'text')
    await refused(() => tokenizer.encode('a', 'b' as never), 'invalid_argument')
    await refused(tokenizer.encodeAsync('a', { timeoutMs: NaN }), 'invalid_argument', 'timeoutMs')
    await refused(tokenizer.encodeAsync('a', { signal: {} as never }), 'invalid_argument', 'signal')
  })

  test('undefined means the default', () => {
    const options = { addSpecialTokens: undefined, include: undefined, truncation: undefined, offsetUnit: undefined }
    expect(tokenizer.encode('hello', options).ids).toEqual(tokenizer.encode('hello').ids)
  })
})
