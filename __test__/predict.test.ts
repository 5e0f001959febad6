// Python classes, and the echo model, as a JS user meets them.
import { execFileSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Engine, PythonError, WorkerLostError, type EngineOptions, type Tensor, type TypedArray } from '../src/index'
import { echoEngine, failure, refused, root, runNode, tempFolder } from './helpers'

const python = process.env['PILLION_PYTHON'] ?? join(root, '.venv/bin/python')
const models = join(__dirname, 'fixtures/models.py')
const timeout = 400_000

/** Equality of large arrays, whose elements vitest would compare one by one as texts. */
function isSame(a: TypedArray, b: TypedArray): boolean {
  const bytes = (array: TypedArray): Buffer => Buffer.from(array.buffer, array.byteOffset, array.byteLength)
  return a.constructor === b.constructor && bytes(a).equals(bytes(b))
}

describe('echo', () => {
  test('gives inputs back, values and arrays', async () => {
    const engine = await echoEngine()
    const values = [null, true, 1.5, 'hé 🌍 \ud800', [1, [2]], { a: { b: [] }, __proto__x: 1 }, {}]
    const results = await engine.predictBatch(values)
    expect(results.map((r) => r.ok && r.value)).toEqual([...values.slice(0, 3), 'hé 🌍 \ufffd', ...values.slice(4)])
    expect(await engine.predict({ x: 1 })).toEqual({ x: 1 })
    expect(await engine.predictBatch([])).toEqual([])
  })

  const arrays = [
    new Uint8Array([1, 255]),
    new Int8Array([-1, 1]),
    new Uint16Array([65535]),
    new Int16Array([-32768]),
    new Uint32Array([2 ** 32 - 1]),
    new Int32Array([-1]),
    new BigUint64Array([2n ** 64n - 1n]),
    new BigInt64Array([-(2n ** 63n)]),
    new Float32Array([0.5, NaN, Infinity]),
    new Float64Array([Math.PI]),
    new Float32Array(0),
  ]

  test('typed arrays keep their type and every bit', async () => {
    const engine = await echoEngine()
    for (const array of arrays) {
      const whole = await engine.predict(array)
      expect(whole).toEqual(array)
      expect(Object.getPrototypeOf(whole)).toBe(Object.getPrototypeOf(array))
      expect(await engine.predict({ a: array, b: 'text' })).toEqual({ a: array, b: 'text' })
    }
    const many = Object.fromEntries(arrays.map((array, i) => [`f${i}`, array]))
    const results = await engine.predictBatch([many, 1, arrays[0]])
    expect(results.map((r) => r.ok && r.value)).toEqual([many, 1, arrays[0]])
    const clamped = await engine.predict(new Uint8ClampedArray([7]))
    expect(clamped).toEqual(new Uint8Array([7]))
    expect(await engine.predict(Buffer.from('ab'))).toEqual(new Uint8Array([97, 98]))
    const shared = new Int16Array(new SharedArrayBuffer(6)).fill(5)
    expect(await engine.predict(shared)).toEqual(new Int16Array([5, 5, 5]))
    expect(await engine.predict(new Int32Array([1, 2, 3, 4]).subarray(1, 3))).toEqual(new Int32Array([2, 3]))
  })

  test('tensors keep their shape', async () => {
    const engine = await echoEngine()
    const tensor = { data: new Float32Array([1, 2, 3, 4, 5, 6]), shape: [2, 3] }
    expect(await engine.predict(tensor)).toEqual(tensor)
    expect(await engine.predict({ image: tensor, k: 1 })).toEqual({ image: tensor, k: 1 })
    expect(await engine.predict({ data: new Int8Array(1), shape: [] })).toEqual({ data: new Int8Array(1), shape: [] })
    expect(await engine.predict({ data: new Int8Array(2), shape: [2] })).toEqual(new Int8Array(2))
    expect(await engine.predict({ data: [1], shape: [1] })).toEqual({ data: [1], shape: [1] })
    for (const shape of [[2], [6, 2], [-6], [1.5, 4], ['6'], [NaN]]) {
      await refused(engine.predict({ ...tensor, shape }), 'invalid_argument', 'inputs.shape')
    }
  })

  test('what JSON would change without a word is refused by its place', async () => {
    const engine = await echoEngine()
    const bad = async (input: unknown, param: string): Promise<void> => {
      await refused(engine.predict(input), 'invalid_argument', param)
    }
    await bad(undefined, 'inputs')
    await bad(NaN, 'inputs')
    await bad({ a: [1, { b: Infinity }] }, 'inputs.a[1].b')
    await bad({ a: 1n }, 'inputs.a')
    await bad(() => 1, 'inputs')
    await bad({ a: { b: new Float32Array(1) } }, 'inputs.a.b')
    await bad([new Uint8Array(1)], 'inputs[0]')
    await bad(new DataView(new ArrayBuffer(1)), 'inputs')
    await bad({ m: new Map() }, 'inputs.m')
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    await refused(engine.predict(circular), 'invalid_argument')
    let deep: unknown = 1
    for (let i = 0; i < 300; i += 1) deep = [deep]
    await refused(engine.predict(deep), 'invalid_argument')
    const jsons = { toJSON: () => JSON.parse('['.repeat(300) + ']'.repeat(300)) as unknown }
    await refused(engine.predict(jsons), 'invalid_argument', 'inputs')
    expect(await engine.predict(new Date(0))).toBe('1970-01-01T00:00:00.000Z')
    expect(await engine.predict({ a: undefined, b: 1 })).toEqual({ b: 1 })
    expect((await refused(engine.predictBatch([1, { a: NaN }]), 'invalid_argument')).param).toBe('inputs[1].a')
    await refused(engine.predictBatch('ab' as never), 'invalid_argument', 'inputs')
    await refused(engine.predict(1, { timeOut: 1 } as never), 'invalid_argument', 'timeOut')
  })

  test('many callers at once each get their own', async () => {
    const engine = await echoEngine({ limits: { maxRunning: 5 } })
    const texts = Array.from({ length: 300 }, (_, i) => `caller ${i}`)
    const generated = texts.slice(0, 40).map((prompt) => engine.generate({ prompt }).text)
    expect(await Promise.all(texts.map((text) => engine.predict(text)))).toEqual(texts)
    expect(await Promise.all(generated)).toEqual(texts.slice(0, 40))
    const { counters, gauges } = engine.metrics()
    expect(counters['pillion_forward_items_total']).toBe(300)
    expect(counters['pillion_forwards_total']).toBeGreaterThanOrEqual(60)
    expect(gauges['pillion_requests_running']).toBe(0)
  })

  test('an input of a megabyte passes, and bounds are kept', async () => {
    const engine = await echoEngine({ limits: { maxQueuedBytes: 3 << 20 } })
    const array = new Float64Array(1 << 17).map((_, i) => i)
    const result = (await engine.predict({ array })) as { array: Float64Array }
    expect(isSame(result.array, array)).toBe(true)
    const error = await refused(engine.predict(new Uint8Array(4 << 20)), 'invalid_argument', 'inputs')
    expect(error.message).toContain('maxQueuedBytes')
  })

  test('a full queue refuses', async () => {
    const engine = await echoEngine({ stepMs: 50, limits: { maxQueuedRequests: 2, maxRunning: 1 } })
    const results = await Promise.allSettled(Array.from({ length: 20 }, (_, i) => engine.predict(i)))
    const failed = results.filter((r) => r.status === 'rejected').map((r) => r.reason as unknown)
    expect(failed.length).toBeGreaterThan(0)
    for (const error of failed) expect(error).toMatchObject({ code: 'queue_full', retryable: true })
  })

  test('a signal, a deadline and close end a call', async () => {
    const engine = await echoEngine({ stepMs: 30_000 })
    const reason = new Error('mine')
    expect(await failure(engine.predict(1, { signal: AbortSignal.abort(reason) }))).toBe(reason)
    const controller = new AbortController()
    const call = engine.predict(1, { signal: controller.signal })
    controller.abort(reason)
    expect(await failure(call)).toBe(reason)
    await refused(engine.predict(1, { timeoutMs: 5 }), 'deadline_exceeded')
    const last = refused(engine.predict(2), 'closed')
    await engine.close({ drainMs: 0 })
    await last
    await refused(engine.predict(3), 'closed')
  })

  test('close lets what runs finish', async () => {
    const engine = await echoEngine({ stepMs: 20 })
    const calls = [engine.predict(1), engine.predict(2)]
    await engine.close()
    expect(await Promise.all(calls)).toEqual([1, 2])
  })

  test('a call keeps Node alive, and a failure that nobody reads is only its own', async () => {
    const ended = await runNode(`const engine = await pillion.Engine.load({ model: { echo: { stepMs: 20 } } });
      engine.predict({ a: new Int8Array([1]) }).then((value) => console.log(value.a[0]))`)
    expect(ended).toMatchObject({ code: 0, stderr: '', stdout: '1\n' })
  })
})

describe('load', () => {
  const load = (name: string, options: Partial<EngineOptions> = {}): Promise<Engine> =>
    Engine.load({ model: { class: name }, python, ...options })

  test('what is no class is named', async () => {
    await refused(load('app.py'), 'invalid_argument', 'model.class')
    const missing = await refused(load(join(tempFolder(), 'app.py:Model')), 'model_not_found', 'model.class')
    expect(missing.stage).toBe('load')
    await refused(load(models, { model: { class: 'a.py:B', options: { a: 1n } } }), 'invalid_argument')
    await refused(Engine.load({ model: { class: 'a:B', echo: {} } }), 'invalid_argument', 'model')
  })
})

describe.skipIf(!existsSync(python))('the example', () => {
  test('runs', { timeout }, () => {
    const args = ['--import', 'tsx', join(root, 'examples/sentiment.mts'), 'Fine weather!', 'a bad day', '']
    const env = { ...process.env, PILLION_PYTHON: python }
    const lines = execFileSync(process.execPath, args, { cwd: root, env, encoding: 'utf8' }).trim().split('\n')
    expect(lines[0]).toMatch(/^"Fine weather!": positive, 0\.54 Float32Array\(2\) \[ 0\.5, 0\.1/)
    expect(lines[1]).toMatch(/^"a bad day": negative, -0\.76/)
    expect(lines[2]).toBe('"": python_error, ValueError: no text')
  })
})

describe.skipIf(!existsSync(python)).each(['embedded', 'shm'] as const)('a Python class over %s', (bridge) => {
  const load = async <O = unknown>(
    name: string,
    options: unknown = {},
    rest: Partial<EngineOptions> = {},
  ): Promise<Engine<unknown, O>> => {
    const model = { class: `${models}:${name}`, options }
    const engine = await Engine.load<unknown, O>({ model, python, bridge, ...rest })
    onTestFinished(() => engine.close({ drainMs: 0 }))
    return engine
  }

  test('is loaded with its options and answers', { timeout }, async () => {
    const stages: string[] = []
    const engine = await load(
      'Words',
      { k: ['ü'] },
      { onProgress: ({ stage }) => stages.push(stage), limits: { maxRunning: 7 } },
    )
    expect(new Set(stages)).toEqual(new Set([...(bridge === 'embedded' ? ['python'] : []), 'import', 'weights']))
    expect(engine.status()).toMatchObject({ bridge, state: 'ready', model: { name: 'Words', tasks: ['predict'] } })
    expect(engine.status().model.kvTokens).toBeUndefined()
    expect(engine.tokenizer).toBeUndefined()
    const said = (await engine.predict({ say: 'options' })) as { pid: number }
    expect(said).toMatchObject({ options: { k: ['ü'] }, maxBatch: 7 })
    expect(said.pid === process.pid).toBe(bridge === 'embedded')
    expect(said.pid).toBe(engine.status().workers[0]!.pid)
    for (const value of [null, 1, 'hé🌍', [{}], { x: 1 }]) expect(await engine.predict(value)).toEqual(value)
  })

  test('generate and chat are refused', { timeout }, async () => {
    const engine = await load('Words')
    const error = await refused(engine.generate({ prompt: 'a' }).text, 'unsupported')
    expect(error.remedy).toContain('predict()')
    await refused(engine.chat({ messages: [{ role: 'user', content: 'a' }] }).text, 'unsupported')
  })

  test('typed arrays are numpy arrays there and come back as they went', { timeout }, async () => {
    const engine = await load('Words')
    const tensor = { data: new Float32Array([1, 2, 3, 4]), shape: [2, 2] }
    const arrays = { a: new BigInt64Array([-1n]), b: tensor, c: new Uint8Array(0) }
    expect(await engine.predict({ say: 'types', ...arrays })).toEqual({
      a: { dtype: 'int64', shape: [1], writeable: false },
      b: { dtype: 'float32', shape: [2, 2], writeable: false },
      c: { dtype: 'uint8', shape: [0], writeable: false },
    })
    expect(await engine.predict(arrays)).toEqual(arrays)
    expect(await engine.predict(tensor)).toEqual(tensor)
  })

  test('callers share a forward', { timeout }, async () => {
    const engine = await load<number[]>('Words', {}, { limits: { maxRunning: 8 } })
    await Promise.all(Array.from({ length: 40 }, (_, i) => engine.predict(i)))
    const batches = await engine.predict({ say: 'batches' })
    expect(batches.reduce((a, b) => a + b)).toBe(41)
    expect(Math.max(...batches)).toBeLessThanOrEqual(8)
    expect(batches.length).toBeLessThan(41)
    const results = await engine.predictBatch(Array.from({ length: 20 }, (_, i) => i))
    expect(results.map((r) => r.ok && r.value)).toEqual(Array.from({ length: 20 }, (_, i) => i))
  })

  test('an error of one input is its own', { timeout }, async () => {
    const engine = await load('Words')
    const [good, bad, nan] = await engine.predictBatch([1, { say: 'error', word: 'ü' }, { say: 'nan' }])
    expect(good).toEqual({ ok: true, value: 1 })
    if (bad?.ok !== false || !PythonError.isInstance(bad.error)) throw new Error('it did not fail')
    expect(bad.error).toMatchObject({ code: 'python_error', pythonType: 'LookupError', stage: 'forward' })
    expect(bad.error.message).toContain("no word 'ü'")
    expect(bad.error.requestId).toMatch(/^call-/)
    expect(nan?.ok === false && nan.error.message).toContain('cannot be sent')
    const error = await refused(engine.predict({ say: 'error', word: 'x' }), 'python_error')
    expect(PythonError.isInstance(error)).toBe(true)
  })

  test('what forward raises arrives with its traceback, and the model goes on', { timeout }, async () => {
    const engine = await load('Words')
    for (const [say, type] of [
      ['raise', 'LookupError'],
      ['exit', 'SystemExit'],
    ] as const) {
      const error = await refused(engine.predict({ say }), 'python_error')
      if (!PythonError.isInstance(error)) throw error
      expect(error.pythonType).toBe(type)
      expect(error.traceback).toContain('models.py')
    }
    expect(await engine.predict(1)).toBe(1)
    const wrong = await load('Wrong')
    const error = await refused(wrong.predict(1), 'python_error')
    expect(error.message).toContain('got 1 inputs and returned 0 results')
  })

  test('what load raises fails the load', { timeout }, async () => {
    const error = await failure(load('Broken'))
    if (!PythonError.isInstance(error)) throw error
    expect(error).toMatchObject({ code: 'python_error', pythonType: 'LookupError', stage: 'load' })
    expect(error.traceback).toContain('in load')
    await refused(load('Missing'), 'model_not_found', 'model.class')
  })

  test('a busy model is left by abort and deadline, and drained by close', { timeout }, async () => {
    const file = join(tempFolder(), 'go')
    const engine = await load('Words')
    const controller = new AbortController()
    const first = engine.predict({ say: 'wait', file })
    const second = engine.predict(2, { signal: controller.signal })
    await refused(engine.predict(3, { timeoutMs: 20 }), 'deadline_exceeded')
    const reason = new Error('mine')
    controller.abort(reason)
    expect(await failure(second)).toBe(reason)
    const closing = engine.close()
    await refused(engine.predict(4), 'closed')
    writeFileSync(file, '')
    expect(await first).toBe('went on')
    await closing
    expect(engine.status().state).toBe('closed')
  })

  // Nothing of ours that Python was given is used again under it.
  test('views that a model keeps never change over 1,000 calls', { timeout }, async () => {
    const engine = await load<{ kept: number; changed: number }>('Keeper')
    for (let i = 0; i < 1000; i += 1) await engine.predict({ a: new Int32Array(60).fill(i) })
    const { kept, changed } = await engine.predict({ a: new Int32Array(60), check: true })
    expect({ kept, changed }).toEqual({ kept: 3003, changed: 0 })
  })

  test.runIf(bridge === 'shm')('a lost worker fails what it had, and the next goes on', { timeout }, async () => {
    const engine = await load('Words')
    const error = await failure(engine.predict({ say: 'die' }))
    if (!WorkerLostError.isInstance(error)) throw error
    expect(error).toMatchObject({ code: 'worker_lost', retryable: true, stage: 'forward' })
    expect(await engine.predict(5)).toBe(5)
    expect(engine.status().workers[0]!.restarts).toBe(1)
  })

  // Over shm those above 64 KiB lie beside the records, as long as there is room.
  test('large tensors pass by the dozen, and stay good while they are kept', { timeout }, async () => {
    const words = await load('Words', {}, { limits: { maxRunning: 4 } })
    const array = (fill: number, length: number): Float64Array => new Float64Array(length).map((_, i) => fill + i)
    for (const length of [8191, 8192, 8193, 1 << 17, 3 << 20]) {
      const input = { data: array(1, length), shape: [1, length] }
      const { a, b } = (await words.predict({ a: input, b: input.data })) as { a: Tensor; b: Float64Array }
      expect(a.shape).toEqual([1, length])
      expect(isSame(a.data, input.data) && isSame(b, input.data)).toBe(true)
      // Each has memory of its own.
      expect([a.data.buffer.byteLength, b.buffer.byteLength]).toEqual([8 * length, 8 * length])
      new Float64Array(a.data.buffer).fill(0)
      expect(isSame(b, input.data)).toBe(true)
    }
    const many = Array.from({ length: 60 }, (_, i) => array(i, 1 << 17))
    const results = await Promise.all(many.map((input) => words.predict(input)))
    expect(results.every((result, i) => isSame(result as Float64Array, many[i]!))).toBe(true)
    const keeper = await load<{ kept: number; changed: number }>('Keeper')
    for (let i = 0; i < 300; i += 1) await keeper.predict({ a: new Int32Array(1 << 17).fill(i), large: true })
    expect(await keeper.predict({ a: new Int32Array(3), check: true })).toEqual({ kept: 903, changed: 0 })
  })

  test.runIf(bridge === 'shm')('what no record carries is refused by its size', { timeout }, async () => {
    const engine = await load('Words')
    const [one, two] = await engine.predictBatch(['x'.repeat(17 << 20), 2])
    expect(one?.ok === false && one.error.code).toBe('unsupported')
    expect(two).toEqual({ ok: true, value: 2 })
    const large = new Uint8Array(20 << 20).fill(3)
    expect(isSame((await engine.predict(large)) as Uint8Array, large)).toBe(true)
  })
})
