// The real model of the test set-up, through the whole chain. `npm test` fetches and converts it; without it these tests say so and are skipped.
import { execFile } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'

import { Engine } from '../src/index'
import { describe, expect, test } from 'vitest'
import { runNode, tempFolder } from './helpers'

const root = path.resolve(import.meta.dirname, '..')
const model = process.env.PILLION_TEST_MODEL ?? path.join(root, '.models/smollm2')
const python = process.env.PILLION_PYTHON ?? path.join(root, '.venv/bin/python')
const isThere = existsSync(path.join(model, 'model.safetensors'))

const questions = [
  'Why is the sky blue?',
  'Name three primary colours.',
  'What is 17 + 25?',
  'Write a haiku about the sea.',
  'Translate "good morning" into French.',
  'Who wrote Hamlet?',
  'Explain recursion to a child.',
  'List the planets of the solar system.',
  'What does HTTP stand for?',
  'Give me a recipe for pancakes.',
  'What is the capital of Japan?',
  'Write a Python function that adds two numbers.',
  'Why do cats purr?',
  'Summarise the story of Cinderella in one sentence.',
  'What is the boiling point of water?',
  'How do I tie a bow tie?',
  'What is a black hole?',
  'Write a short e-mail declining a meeting.',
  'What are the ingredients of bread?',
  'Tell me a joke about computers 🙂, bitte auch auf Deutsch.',
]

/** Plain transformers, one prompt at a time, on the same folder: what the engine must give token for token. */
async function reference(prompts: number[][], maxTokens: number): Promise<number[][]> {
  const script = path.join(import.meta.dirname, 'reference.py')
  const child = promisify(execFile)(python, [script, model, String(maxTokens)], { maxBuffer: 1 << 26 })
  child.child.stdin?.end(JSON.stringify(prompts))
  return JSON.parse((await child).stdout) as number[][]
}

describe.skipIf(!isThere)(`SmolLM2 in ${path.relative(root, model)}`, () => {
  test(
    '20 prompts at once give what plain transformers gives to each alone, in float32',
    { timeout: 400_000 },
    async () => {
      const maxTokens = 24
      const engine = await Engine.load({ model, python, dtype: 'float32' })
      try {
        const tokenizer = engine.tokenizer!
        const prompts = questions.map((content) => {
          const text = tokenizer.applyChatTemplate([{ role: 'user', content }], { addGenerationPrompt: true })
          return Array.from(tokenizer.encode(text, { addSpecialTokens: false, parseSpecialTokens: true }).ids)
        })
        const runs = prompts.map(
          (prompt) => engine.generate({ prompt, maxTokens, temperature: 0, tokens: true }).result,
        )
        const got = (await Promise.all(runs)).map((result) => Array.from(result.tokens!.ids))
        expect(engine.status().model).toMatchObject({ tier: 'slots', dtype: 'float32' })
        expect(got).toEqual(await reference(prompts, maxTokens))

        // It generates, and nothing else.
        await expect(engine.predict('a')).rejects.toMatchObject({ code: 'unsupported' })

        // `chat` renders and tokenizes the very same prompt.
        const chat = engine.chat({
          messages: [{ role: 'user', content: questions[0]! }],
          maxTokens,
          temperature: 0,
          tokens: true,
        })
        expect(Array.from((await chat.result).tokens!.ids)).toEqual(got[0])

        // A seed makes a sampled answer repeatable, whatever else is in the batch.
        const sampled = () =>
          engine.generate({ prompt: prompts[3]!, maxTokens: 16, temperature: 0.8, topP: 0.9, seed: 7 })
        const alone = await sampled().text
        const [inCompany] = await Promise.all([
          sampled().text,
          ...prompts.slice(0, 3).map((prompt) => engine.generate({ prompt, maxTokens: 16 }).text),
        ])
        expect(inCompany).toBe(alone)
      } finally {
        await engine.close()
      }
    },
  )

  test.each(['shm', 'grpc'] as const)(
    'a stream over %s goes on after its worker was killed',
    { timeout: 400_000 },
    async (asked) => {
      const engine = await Engine.load({ model, python, dtype: 'float32', bridge: asked })
      try {
        const request = { prompt: 'The three laws of robotics are', maxTokens: 32, temperature: 0 }
        const undisturbed = await engine.generate(request).text
        const run = engine.generate(request)
        let killed = 0
        let text = ''
        for await (const delta of run.textStream) {
          text += delta
          if (killed === 0) {
            killed = engine.status().workers[0]!.pid
            expect(killed).not.toBe(process.pid)
            process.kill(killed, 'SIGKILL')
          }
        }
        expect(text).toBe(undisturbed)
        const { bridge, workers } = engine.status()
        expect({ bridge, restarts: workers[0]!.restarts }).toEqual({ bridge: asked, restarts: 1 })
        expect(workers[0]!.pid).not.toBe(killed)
      } finally {
        await engine.close()
      }
    },
  )

  test(
    'a worker that was started to stay serves the next engine with the weights it has',
    { timeout: 400_000 },
    async () => {
      const socket = path.join(tempFolder(), 'w', 's')
      const options = { model, python, dtype: 'float32', workers: [`unix:${socket}`] }
      const request = { prompt: 'The three laws of robotics are', maxTokens: 16, temperature: 0 }
      const killed = await runNode(
        `const engine = await pillion.Engine.load({ ...${JSON.stringify(options)}, startWorkers: true })
       const run = engine.generate({ ...${JSON.stringify(request)}, maxTokens: 2000, ignoreEos: true })
       for await (const text of run.textStream) {
         require('node:fs').writeSync(1, String(engine.status().workers[0].pid))
         process.kill(process.pid, 'SIGKILL')
       }`,
        {},
        300_000,
      )
      expect(killed.signal, killed.stderr).toBe('SIGKILL')
      const worker = Number(killed.stdout)
      try {
        const engine = await Engine.load(options)
        const text = await engine.generate(request).text
        expect(engine.status()).toMatchObject({ bridge: 'grpc', workers: [{ pid: worker, restarts: 0 }] })
        await engine.close()
        const embedded = await Engine.load({ model, python, dtype: 'float32' })
        expect(await embedded.generate(request).text).toBe(text)
        await embedded.close()
        // It is nobody's, and has loaded once.
        process.kill(worker, 0)
        expect(readFileSync(`${socket}.log`, 'utf8').match(/weights: done/g)).toHaveLength(1)
      } finally {
        process.kill(worker, 'SIGTERM')
      }
    },
  )

  test('memory stays flat over five load and close cycles', { timeout: 400_000 }, async () => {
    // A process of its own, so that nothing else counts; collected garbage is not what a close leaves behind.
    const script = `require('node:v8').setFlagsFromString('--expose-gc')
      const collect = require('node:vm').runInNewContext('gc')
      const cycle = async () => {
        const engine = await pillion.Engine.load(${JSON.stringify({ model, python, dtype: 'float32' })})
        await engine.generate({ prompt: 'Once upon a time', maxTokens: 4, temperature: 0 }).text
        await engine.close()
      }
      for (let i = 0; i < 7; i += 1) {
        await cycle()
        collect()
        await new Promise(setImmediate)
        console.log(process.memoryUsage.rss())
      }`
    const ended = await runNode(script, {}, 380_000)
    expect(ended).toMatchObject({ code: 0, signal: null })
    const resident = ended.stdout.trim().split('\n').map(Number)
    // The first cycle imports torch, the second fills the allocator's pools; the five after them must add nothing.
    const [, settled, ...rest] = resident
    expect(rest).toHaveLength(5)
    expect(
      Math.max(...rest) / settled!,
      resident.map((bytes) => `${(bytes / 1e6).toFixed(0)} MB`).join(', '),
    ).toBeLessThan(1.1)
  })
})
