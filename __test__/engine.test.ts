import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Engine, type LoadProgress } from '../src/index'
import { echoEngine, failure, refused, tempFolder } from './helpers'

describe('load', () => {
  test('the echo model needs no Python', async () => {
    const engine = await echoEngine()
    const status = engine.status()
    expect(status).toMatchObject({ state: 'ready', fallbacks: [], running: 0, waiting: 0, waitingTokens: 0 })
    expect(status.model).toMatchObject({ name: 'echo', tasks: ['generate', 'predict'] })
    expect(status.bridge).toBeUndefined()
    expect(status.python).toBeUndefined()
    expect(status.workers).toHaveLength(1)
    expect(status.workers[0]).toMatchObject({ pid: process.pid, restarts: 0 })
    expect(engine.tokenizer?.vocabSize).toBe(257)
    expect(engine.tokenizer?.decode(engine.tokenizer.encode('hé').ids)).toBe('hé')
  })

  test('what is no model is named', async () => {
    const folder = tempFolder()
    const load = (model: unknown): Promise<Engine> => Engine.load({ model: model as string })
    const missing = await refused(load(join(folder, 'nothing')), 'model_not_found', 'model')
    expect(missing.stage).toBe('load')
    expect((await refused(load(folder), 'model_not_found', 'model')).message).toContain('config.json')
    expect((await refused(load('no-such-org/model'), 'model_not_found')).remedy).toContain('nothing is downloaded')
    for (const model of [undefined, 7, null, [], { ecko: {} }, {}]) await refused(load(model), 'invalid_argument')
    await refused(load({ echo: { stepMs: -1 } }), 'invalid_argument', 'stepMs')
    await refused(load({ echo: { stepMs: 1e300 } }), 'invalid_argument', 'model.echo.stepMs')
  })

  test('a tokenizer that cannot be read fails the load', async () => {
    const folder = tempFolder()
    writeFileSync(join(folder, 'config.json'), '{}')
    writeFileSync(join(folder, 'tokenizer.json'), '{')
    await refused(Engine.load({ model: folder }), 'invalid_tokenizer')
  })

  test('a hub id is looked up in the local cache', async () => {
    const home = tempFolder()
    const snapshot = join(home, 'hub/models--org--name/snapshots/abc')
    mkdirSync(snapshot, { recursive: true })
    writeFileSync(join(snapshot, 'tokenizer.json'), '{')
    writeFileSync(join(snapshot, 'config.json'), '{}')
    const before = process.env['HF_HOME']
    process.env['HF_HOME'] = home
    try {
      await refused(Engine.load({ model: 'org/name' }), 'invalid_tokenizer')
    } finally {
      if (before === undefined) delete process.env['HF_HOME']
      else process.env['HF_HOME'] = before
    }
  })

  test('bridges and workers that cannot be are refused by name', async () => {
    const folder = tempFolder()
    writeFileSync(join(folder, 'config.json'), '{}')
    const load = (options: object) => Engine.load({ model: folder, ...options })
    await refused(load({ bridge: 'pipe' }), 'invalid_argument', 'bridge')
    await refused(load({ bridge: 'shm', workers: ['unix:/run/w'] }), 'invalid_argument', 'bridge')
    await refused(load({ workers: 2 }), 'unsupported', 'workers')
    for (const workers of [0, 1.5, [], ['tcp:host:1'], [7]]) {
      await refused(load({ workers }), 'invalid_argument', 'workers')
    }
    const error = await refused(load({ workers: [`unix:${join(folder, 'nobody')}`] }), 'bridge_unavailable', 'workers')
    expect(error.remedy).toContain(`python -m pillion.worker --listen unix:${folder}`)
    const long = await refused(load({ workers: [`unix:/${'x'.repeat(200)}`] }), 'bridge_unavailable')
    expect(long.message).toContain('107')
  })

  test('a signal that is aborted already, or while it loads, rejects with its reason', async () => {
    const reason = new Error('mine')
    const model = { echo: {} }
    expect(await failure(Engine.load({ model, signal: AbortSignal.abort(reason) }))).toBe(reason)
    const controller = new AbortController()
    const loading = Engine.load({ model, signal: controller.signal })
    controller.abort(reason)
    expect(await failure(loading)).toBe(reason)
  })

  test('unknown and wrong options are refused by name', async () => {
    const model = { echo: {} }
    const load = (options: object): Promise<Engine> => Engine.load({ model, ...options })
    expect((await refused(load({ logegr: () => undefined }), 'invalid_argument', 'logegr')).message).toContain('logger')
    await refused(load({ python: 3 }), 'invalid_argument', 'python')
    await refused(load({ limits: { maxContext: 0 } }), 'invalid_argument', 'maxContext')
    await refused(load({ limits: { maxContext: 1.5 } }), 'invalid_argument', 'maxContext')
    await refused(load({ limits: { maxQueue: 1 } }), 'invalid_argument', 'maxQueue')
    await refused(load({ limits: { maxContext: 2 ** 40 } }), 'invalid_argument')
    await refused(load({ threads: { torch: 0 } }), 'invalid_argument', 'torch')
    await refused(load({ onProgress: 'x' }), 'invalid_argument', 'onProgress')
    await refused(Engine.load(undefined as never), 'invalid_argument')
  })

  test('a listener that throws does not spoil it', async () => {
    const seen: LoadProgress[] = []
    const engine = await echoEngine({
      onProgress: (progress) => {
        seen.push(progress)
        throw new Error('mine')
      },
      logger: () => {
        throw new Error('mine')
      },
    })
    expect(await engine.generate({ prompt: 'a' }).text).toBe('a')
  })
})

describe('metrics', () => {
  test('count, and are told to Prometheus', async () => {
    const engine = await echoEngine()
    await engine.generate({ prompt: 'abc' }).text
    const metrics = engine.metrics()
    expect(metrics.counters['pillion_completion_tokens_total']).toBe(4)
    expect(metrics.gauges['pillion_requests_running']).toBe(0)
    expect(metrics.toPrometheus()).toMatch(/^# TYPE pillion_completion_tokens_total counter$/m)
  })
})

describe('close', () => {
  test('twice is fine, and generate after it fails through the run', async () => {
    const engine = await echoEngine()
    await Promise.all([engine.close(), engine.close()])
    await engine.close({ drainMs: 0 })
    await engine[Symbol.asyncDispose]()
    const run = engine.generate({ prompt: 'a' })
    await refused(run.text, 'closed')
    await refused(engine.chat({ messages: [{ role: 'user', content: 'a' }] }).text, 'closed')
    expect(engine.status().state).toBe('closed')
    expect(engine.tokenizer?.encode('a').ids).toHaveLength(1)
  })

  test('while busy: what runs may finish within drainMs', async () => {
    const engine = await echoEngine({ stepMs: 1 })
    const run = engine.generate({ prompt: 'x'.repeat(20) })
    const closing = engine.close({ drainMs: 30_000 })
    await refused(engine.generate({ prompt: 'late' }).text, 'closed')
    expect(await run.text).toBe('x'.repeat(20))
    await closing
  })

  test('while busy: what is left after drainMs ends with abort', async () => {
    const engine = await echoEngine({ stepMs: 5 })
    const runs = [1, 2, 3].map(() => engine.generate({ prompt: 'x'.repeat(10_000) }))
    const reader = runs[0]![Symbol.asyncIterator]()
    await reader.next()
    await engine.close({ drainMs: 10 })
    for (const run of runs) expect(await run.finishReason).toBe('abort')
    expect(runs[0]!.partial.text).toMatch(/^x+$/)
  })

  test('a second close can only shorten the drain', async () => {
    const engine = await echoEngine({ stepMs: 5 })
    const run = engine.generate({ prompt: 'x'.repeat(10_000) })
    await run[Symbol.asyncIterator]().next()
    const first = engine.close({ drainMs: 60_000 })
    await engine.close({ drainMs: 0 })
    await first
    expect(await run.finishReason).toBe('abort')
  })

  test('bad options are refused', async () => {
    const engine = await echoEngine()
    await refused(engine.close({ drainMs: -1 }), 'invalid_argument', 'drainMs')
    await refused(engine.close({ drain: 1 } as never), 'invalid_argument', 'drain')
  })

  test('engines come and go', async () => {
    for (let i = 0; i < 20; i += 1) {
      const engine = await Engine.load({ model: { echo: {} } })
      expect(await engine.generate({ prompt: `round ${i}` }).text).toBe(`round ${i}`)
      await engine.close()
    }
  })
})
