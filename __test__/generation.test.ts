import { describe, expect, test } from 'vitest'
import { PillionError, type Generation, type Part } from '../src/index'
import { echoEngine, failure, refused } from './helpers'

async function read(run: Generation): Promise<Part[]> {
  const parts: Part[] = []
  for await (const part of run) parts.push(part)
  return parts
}

async function readText(run: Generation): Promise<string[]> {
  const pieces: string[] = []
  for await (const text of run.textStream) pieces.push(text)
  return pieces
}

/** Begins a run that has given some text and goes on for a long while. */
async function longRun(
  options: { signal?: AbortSignal } = {},
): Promise<{ run: Generation; reader: AsyncIterator<Part> }> {
  const engine = await echoEngine({ stepMs: 2 })
  const run = engine.generate({ prompt: 'x'.repeat(100_000), ...options })
  const reader = run[Symbol.asyncIterator]()
  await reader.next()
  return { run, reader }
}

const text = 'Grüße aus Zürich, 🌍! 日本語'

describe('reading', () => {
  test('parts join to the text and end with finish', async () => {
    const engine = await echoEngine()
    const run = engine.generate({ prompt: text })
    const parts = await read(run)
    const deltas = parts.flatMap((part) => (part.type === 'text-delta' ? [part.text] : []))
    expect(deltas.join('')).toBe(text)
    expect(deltas.every((delta) => delta.isWellFormed())).toBe(true)
    const bytes = new TextEncoder().encode(text).length
    expect(parts.at(-1)).toMatchObject({
      type: 'finish',
      finishReason: 'stop',
      stopMatch: 256,
      usage: { promptTokens: bytes, completionTokens: bytes + 1, totalTokens: 2 * bytes + 1 },
    })
    expect(await run.text).toBe(text)
    expect(await run.finishReason).toBe('stop')
    expect(await run.usage).toEqual((await run.result).usage)
    expect(run.partial).toEqual({ text, usage: await run.usage })
  })

  test('the text alone', async () => {
    const engine = await echoEngine()
    expect((await readText(engine.generate({ prompt: text }))).join('')).toBe(text)
    expect(await readText(engine.generate({ prompt: text, maxTokens: 1 }))).toEqual(['G'])
  })

  test('is optional, and the promises are there before, during and after', async () => {
    const engine = await echoEngine()
    const run = engine.generate({ prompt: text })
    const before = run.text
    expect(await before).toBe(text)
    expect(await run.text).toBe(text)
    expect('then' in run).toBe(false)
  })

  test('what nobody read in time comes as one part', async () => {
    const engine = await echoEngine()
    const run = engine.generate({ prompt: text })
    await run.result
    const parts = await read(run)
    expect(parts.map((part) => part.type)).toEqual(['text-delta', 'finish'])
    expect(parts[0]).toMatchObject({ text })
  })

  test('a second time is an error with a hint', async () => {
    const engine = await echoEngine()
    const run = engine.generate({ prompt: 'a' })
    await read(run)
    const error = await refused(() => run[Symbol.asyncIterator](), 'invalid_argument')
    expect(error.remedy).toContain('run.text')
    await refused(readText(run), 'invalid_argument')
    const other = engine.generate({ prompt: 'a' })
    await readText(other)
    await refused(read(other), 'invalid_argument')
    expect(await other.text).toBe('a')
  })

  test('many at once each get their own', async () => {
    const engine = await echoEngine()
    const prompts = Array.from({ length: 100 }, (_, i) => `prompt ${i} ${'🌍'.repeat(i % 7)}`)
    const runs = prompts.map((prompt) => engine.generate({ prompt }))
    expect(await Promise.all(runs.map((run) => run.text))).toEqual(prompts)
    expect(new Set(runs.map((run) => run.requestId)).size).toBe(100)
  })

  test('tokens and log probabilities are flat and complete', async () => {
    const engine = await echoEngine()
    const run = engine.generate({ prompt: 'abc', logprobs: 2, requestId: 'mine' })
    const parts = await read(run)
    const result = await run.result
    expect(result.requestId).toBe('mine')
    expect([...(result.tokens?.ids ?? [])]).toEqual([97, 98, 99, 256])
    expect(result.tokens?.logprobs).toHaveLength(4)
    expect(result.tokens?.topIds).toHaveLength(8)
    expect(result.tokens?.topLogprobs).toHaveLength(8)
    const streamed = parts.flatMap((part) => (part.type === 'text-delta' ? [...(part.tokens?.ids ?? [])] : []))
    expect(streamed).toEqual([97, 98, 99, 256])
    expect((await engine.generate({ prompt: 'abc' }).result).tokens).toBeUndefined()
    expect((await engine.generate({ prompt: 'abc', tokens: true }).result).tokens?.logprobs).toBeUndefined()
  })
})

describe('abort and break', () => {
  test('abort() resolves with what there is', async () => {
    const { run, reader } = await longRun()
    run.abort()
    expect(await run.finishReason).toBe('abort')
    expect(await run.text).toMatch(/^x+$/)
    let last: IteratorResult<Part> = await reader.next()
    while (last.done !== true && last.value.type !== 'finish') last = await reader.next()
    expect(last.value).toMatchObject({ type: 'finish', finishReason: 'abort' })
    expect((await reader.next()).done).toBe(true)
    run.abort()
    expect((await run.usage).completionTokens).toBeGreaterThan(0)
  })

  test('leaving the loop ends the work and resolves the promises', async () => {
    const engine = await echoEngine({ stepMs: 2 })
    const run = engine.generate({ prompt: 'x'.repeat(100_000) })
    for await (const delta of run.textStream) {
      expect(delta).toContain('x')
      break
    }
    expect(await run.finishReason).toBe('abort')
    expect(run.partial.text.length).toBeLessThan(100_000)
    expect(engine.status()).toMatchObject({ running: 0, waiting: 0 })
  })

  test('leaving by an error of the loop does too', async () => {
    const engine = await echoEngine({ stepMs: 2 })
    const run = engine.generate({ prompt: 'x'.repeat(100_000) })
    const loop = async (): Promise<void> => {
      for await (const _ of run) throw new Error('mine')
    }
    expect(await failure(loop())).toMatchObject({ message: 'mine' })
    expect(await run.finishReason).toBe('abort')
  })

  test('disposing ends it and never fails', async () => {
    const { run } = await longRun()
    await run[Symbol.asyncDispose]()
    expect(await run.finishReason).toBe('abort')
  })

  test('abort before the first token, and while a step takes long', async () => {
    const engine = await echoEngine({ stepMs: 300 })
    const run = engine.generate({ prompt: 'x'.repeat(100) })
    run.abort('a reason')
    expect(await run.finishReason).toBe('abort')
    expect(await run.text).toBe('')
  })
})

describe('signal', () => {
  test('aborted already: rejects with its reason before any work', async () => {
    const engine = await echoEngine()
    const reason = new Error('mine')
    const run = engine.generate({ prompt: text, signal: AbortSignal.abort(reason) })
    expect(await failure(run.text)).toBe(reason)
    expect(await failure(read(run))).toBe(reason)
    expect(engine.metrics().counters['pillion_requests_total']).toBe(0)
  })

  test('aborted later: iterator and promises reject with its reason, partial stays', async () => {
    const controller = new AbortController()
    const { run, reader } = await longRun({ signal: controller.signal })
    const reason = { any: 'value' }
    controller.abort(reason)
    expect(await failure(reader.next())).toBe(reason)
    for (const promise of [run.text, run.usage, run.finishReason, run.result])
      expect(await failure(promise)).toBe(reason)
    expect(run.partial.text).toMatch(/^x+$/)
    expect(run.partial.usage.completionTokens).toBeGreaterThan(0)
    expect((await reader.next()).done).toBe(true)
  })

  test('aborted after the end changes nothing', async () => {
    const engine = await echoEngine()
    const controller = new AbortController()
    const run = engine.generate({ prompt: text, signal: controller.signal })
    await run.result
    controller.abort(new Error('late'))
    expect(await run.text).toBe(text)
    expect((await read(run)).at(-1)?.type).toBe('finish')
  })

  test('a deadline fails the run, retryably', async () => {
    const engine = await echoEngine({ stepMs: 5 })
    const run = engine.generate({ prompt: 'x'.repeat(10_000), timeoutMs: 30 })
    const error = await refused(run.text, 'deadline_exceeded')
    expect(error.retryable).toBe(true)
    expect(error.requestId).toBe(run.requestId)
  })
})

describe('what cannot be done', () => {
  test('a value out of range arrives through the run, with its name and the request', async () => {
    const engine = await echoEngine()
    const cases = { temperature: -1, topP: 0, topK: 0.5, maxTokens: 0, seed: -1, minP: 2, logprobs: 21, priority: 5000 }
    for (const [param, value] of Object.entries(cases)) {
      const run = engine.generate({ prompt: 'a', [param]: value })
      const error = await refused(run.text, 'invalid_argument', param)
      expect(error).toMatchObject({ requestId: run.requestId, stage: 'validate' })
      expect(await failure(read(run))).toBe(error)
    }
    await refused(engine.generate({ prompt: '' }).text, 'invalid_argument', 'prompt')
    await refused(engine.generate({ prompt: [] }).text, 'invalid_argument', 'prompt')
    await refused(engine.generate({ prompt: [1, 257] }).text, 'invalid_argument', 'prompt')
    await refused(engine.generate({ prompt: 'a', stop: '' }).text, 'invalid_argument', 'stop')
    expect(await engine.generate({ prompt: 'still there' }).text).toBe('still there')
  })

  test('a wrong name or type is thrown at once', async () => {
    const engine = await echoEngine()
    const error = await refused(() => engine.generate({ prompt: 'a', max_tokens: 3 } as never), 'invalid_argument')
    expect(error.message).toContain('maxTokens')
    await refused(() => engine.generate({ prompt: 'a', maxTokens: '3' as never }), 'invalid_argument', 'maxTokens')
    await refused(() => engine.generate({ prompt: 'a', temperature: NaN }), 'invalid_argument', 'temperature')
    await refused(() => engine.generate({} as never), 'invalid_argument', 'prompt')
    await refused(() => engine.generate({ prompt: [1.5] }), 'invalid_argument', 'prompt[0]')
    await refused(() => engine.generate('a' as never), 'invalid_argument')
    await refused(() => engine.chat({ messages: 'hi' as never }), 'invalid_argument', 'messages')
    await refused(() => engine.chat({ prompt: 'hi' } as never), 'invalid_argument', 'prompt')
  })

  test('a prompt longer than the context', async () => {
    const engine = await echoEngine({ limits: { maxContext: 16 } })
    await refused(engine.generate({ prompt: 'x'.repeat(17) }).text, 'context_length_exceeded', 'prompt')
    await refused(engine.generate({ prompt: 'x'.repeat(10), maxTokens: 7 }).text, 'context_length_exceeded')
    expect(await engine.generate({ prompt: 'x'.repeat(10), maxTokens: 6 }).text).toBe('xxxxxx')
  })

  test('more than may wait is refused at once, retryably', async () => {
    const engine = await echoEngine({ stepMs: 50, limits: { maxRunning: 1, maxQueuedRequests: 2 } })
    const runs = Array.from({ length: 10 }, () => engine.generate({ prompt: 'x'.repeat(200) }))
    const settled = Promise.allSettled(runs.map((run) => run.text))
    const refusal = await Promise.any(runs.map((run) => failure(run.text)))
    expect(refusal).toBeInstanceOf(PillionError)
    expect(refusal).toMatchObject({ code: 'queue_full', retryable: true })
    for (const run of runs) run.abort()
    const outcomes = await settled
    expect(outcomes.filter(({ status }) => status === 'rejected').length).toBeGreaterThan(0)
    expect(outcomes.filter(({ status }) => status === 'fulfilled').length).toBeGreaterThan(0)
  })
})

describe('prompts', () => {
  test('token ids are taken as they are, whatever array they are in', async () => {
    const engine = await echoEngine()
    for (const prompt of [
      [104, 105],
      Uint32Array.of(104, 105),
      Int32Array.of(104, 105),
      { length: 2, 0: 104, 1: 105 },
    ]) {
      expect(await engine.generate({ prompt }).text).toBe('hi')
    }
  })

  test('an array that changes after the call does not matter', async () => {
    const engine = await echoEngine()
    const prompt = Uint32Array.of(104, 105)
    const run = engine.generate({ prompt })
    prompt.fill(0)
    structuredClone(prompt, { transfer: [prompt.buffer] })
    expect(await run.text).toBe('hi')
  })

  test('a lone surrogate becomes U+FFFD', async () => {
    const engine = await echoEngine()
    expect(await engine.generate({ prompt: 'a\ud800b' }).text).toBe('a\ufffdb')
  })

  test('a long text comes back whole', async () => {
    const engine = await echoEngine()
    const prompt = 'long “text” with 🌍. '.repeat(1000)
    expect(await engine.generate({ prompt }).text).toBe(prompt)
  })

  test('stop strings end the answer and are not part of it', async () => {
    const engine = await echoEngine()
    const one = await engine.generate({ prompt: 'one two three', stop: ' t' }).result
    expect(one).toMatchObject({ text: 'one', finishReason: 'stop', stopMatch: ' t' })
    const two = await engine.generate({ prompt: 'one two three', stop: ['zzz', 'thr'] }).result
    expect(two).toMatchObject({ text: 'one two ', stopMatch: 'thr' })
  })
})

describe('chat', () => {
  test('renders the template and streams', async () => {
    const engine = await echoEngine()
    const run = engine.chat({ messages: [{ role: 'user', content: text }], maxTokens: 500 })
    expect((await readText(run)).join('')).toBe(text)
  })

  test('takes a template, and reports one that fails', async () => {
    const engine = await echoEngine()
    const messages = [{ role: 'user', content: 'hi' }]
    const template = '{{ messages[0].role }}: {{ messages[0].content }}{% if add_generation_prompt %}!{% endif %}'
    expect(await engine.chat({ messages, template }).text).toBe('user: hi!')
    expect(await engine.chat({ messages, template, addGenerationPrompt: false }).text).toBe('user: hi')
    const run = engine.chat({ messages, template: '{{ raise_exception("no") }}' })
    const error = await refused(run.text, 'invalid_argument')
    expect(error.requestId).toBe(run.requestId)
  })

  test('special tokens that a user writes are text', async () => {
    const engine = await echoEngine()
    const content = 'before <|endoftext|> after'
    expect(await engine.chat({ messages: [{ role: 'user', content }] }).text).toBe(content)
    const { usage } = await engine.chat({ messages: [{ role: 'user', content }] }).result
    expect(usage.promptTokens).toBe(content.length)
  })

  test('can be aborted before it is rendered', async () => {
    const engine = await echoEngine()
    const run = engine.chat({ messages: [{ role: 'user', content: 'x'.repeat(100_000) }] })
    run.abort()
    expect(await run.finishReason).toBe('abort')
  })
})
