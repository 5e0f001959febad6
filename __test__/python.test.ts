// Python inside the process, as a JS user meets it when things go wrong or end. The cases with a model need the one of the test set-up, and
// say so when it is not there.
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Engine, PythonError } from '../src/index'
import { refused, root, runNode, tempFolder, type Ended } from './helpers'

const model = process.env['PILLION_TEST_MODEL'] ?? join(root, '.models/smollm2')
const python = process.env['PILLION_PYTHON'] ?? join(root, '.venv/bin/python')
const timeout = 400_000

/** A folder that looks like a model up to its weights. */
function folderWith(files: Record<string, string>): string {
  const folder = tempFolder()
  for (const [name, text] of Object.entries({ 'config.json': '{}', ...files })) writeFileSync(join(folder, name), text)
  return folder
}

describe('no Python', () => {
  test('an interpreter that is not there is named, with the remedy', async () => {
    const missing = join(tempFolder(), 'python')
    const error = await refused(Engine.load({ model: folderWith({}), python: missing }), 'python_not_found')
    expect(error.message).toContain(missing)
    expect(error.remedy).toContain('npx pillion setup')
    expect(error.stage).toBe('load')
  })
})

describe.skipIf(!existsSync(python))('a model that cannot be loaded', () => {
  const load = (files: Record<string, string>): Promise<Engine> => Engine.load({ model: folderWith(files), python })

  test('without weights, or with pickled ones', { timeout }, async () => {
    const empty = await refused(load({}), 'model_not_found')
    expect(empty.message).toContain('safetensors')
    const pickled = await refused(load({ 'pytorch_model.bin': 'pickle' }), 'unsupported')
    expect(pickled.message).toContain('pickle')
  })

  test('with broken files: type, message and traceback of the exception arrive', { timeout }, async () => {
    const error = await refused(load({ 'config.json': '{', 'model.safetensors': '' }), 'model_load_failed')
    if (!PythonError.isInstance(error)) throw error
    expect(error.pythonType).not.toBe('')
    expect(error.traceback).toContain('Traceback (most recent call last)')
  })
})

describe.skipIf(!existsSync(join(model, 'model.safetensors')))('a process with a loaded model', () => {
  const run = (script: string): Promise<Ended> =>
    runNode(
      `const engine = await pillion.Engine.load(${JSON.stringify({ model, python, dtype: 'float32' })});\n${script}`,
      {},
      timeout,
    )

  test('exits by itself when the engine is idle and forgotten', { timeout }, async () => {
    const ended = await run(
      `console.log(await engine.generate({ prompt: 'The capital of France is', maxTokens: 2 }).text)`,
    )
    expect(ended).toMatchObject({ code: 0, signal: null })
    expect(ended.stdout).toContain('Paris')
  })

  const busy = `const runs = Array.from({ length: 8 }, (_, i) =>
      engine.generate({ prompt: 'word '.repeat(400 + i), maxTokens: 400, ignoreEos: true }));
    for await (const text of runs[0].textStream) break;
    await new Promise((next) => setImmediate(next));`

  test('exits with its code while Python is busy', { timeout: 3 * timeout }, async () => {
    for (const code of [0, 7, 9]) {
      expect(await run(`${busy} process.exit(${code})`)).toMatchObject({ code, signal: null })
    }
  })

  test('ends as without us when nobody catches an error while Python is busy', { timeout }, async () => {
    const ended = await run(`${busy} setImmediate(() => { throw new Error('mine') })`)
    expect(ended).toMatchObject({ code: 1, signal: null })
    expect(ended.stderr).toContain('mine')
  })

  test('closes while busy, and can load again', { timeout }, async () => {
    const ended = await run(`${busy} await engine.close({ drainMs: 0 });
      const reasons = await Promise.all(runs.map((run) => run.finishReason));
      const again = await pillion.Engine.load(${JSON.stringify({ model, python, dtype: 'float32' })});
      console.log(new Set(reasons), (await again.generate({ prompt: 'One, two,', maxTokens: 1 }).usage).completionTokens);
      await again.close()`)
    expect(ended).toMatchObject({ code: 0, signal: null })
    expect(ended.stdout.trim()).toBe("Set(1) { 'abort' } 1")
  })
})
