// How a whole process behaves: what keeps it alive, how it ends, and what workers do. Each case is a Node of its own, on what is built.
import { describe, expect, test } from 'vitest'
import { root, runNode, type Ended } from './helpers'

function expectClean(ended: Ended, stdout: string): void {
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '' })
  expect(ended.stdout.trim()).toBe(stdout)
}

const long = `const engine = await pillion.Engine.load({ model: { echo: { stepMs: 20 } } });
const run = engine.generate({ prompt: 'x'.repeat(100000) });
for await (const part of run) break;
const again = engine.generate({ prompt: 'x'.repeat(100000) });
const reader = again[Symbol.asyncIterator]();
await reader.next();`

describe('the end of a process', () => {
  test('an idle engine that is forgotten lets Node exit', async () => {
    expectClean(
      await runNode(`const engine = await pillion.Engine.load({ model: { echo: {} } });
        globalThis.kept = engine;
        console.log(await engine.generate({ prompt: 'hi' }).text)`),
      'hi',
    )
  })

  test('a run that nobody awaits keeps Node alive until it has ended', async () => {
    const script = `const engine = await pillion.Engine.load({ model: { echo: { stepMs: 2 } } });
      engine.generate({ prompt: 'x'.repeat(50) }).text.then((text) => console.log(text.length))`
    expectClean(await runNode(script), '50')
  })

  test('loading and closing keep Node alive', async () => {
    const script = `pillion.Engine.load({ model: { echo: {} } }).then((engine) => {
        engine.close().then(() => console.log('closed'))
      })`
    expectClean(await runNode(script), 'closed')
  })

  test('a batch keeps Node alive', async () => {
    const script = `const engine = await pillion.Engine.load({ model: { echo: {} } });
      engine.tokenizer.encodeBatch(Array.from({ length: 5000 }, () => 'some text')).then((b) => console.log(b.rows))`
    expectClean(await runNode(script), '5000')
  })

  test('process.exit while busy ends at once with its code', async () => {
    const ended = await runNode(`${long}; process.exit(7)`)
    expect(ended).toMatchObject({ code: 7, signal: null, stderr: '' })
  })

  test('process.exit while a batch runs', async () => {
    const ended = await runNode(`const engine = await pillion.Engine.load({ model: { echo: {} } });
      engine.tokenizer.encodeBatch(Array.from({ length: 200000 }, () => 'some longer text here'));
      setImmediate(() => process.exit(8))`)
    expect(ended).toMatchObject({ code: 8, signal: null, stderr: '' })
  })

  test('an uncaught error while busy ends as without us', async () => {
    const ended = await runNode(`${long}; setImmediate(() => { throw new Error('mine') })`)
    expect(ended.code).toBe(1)
    expect(ended.stderr).toContain('mine')
  })

  test('a run whose failure nobody reads causes no unhandled rejection', async () => {
    const script = `process.on('unhandledRejection', (error) => { console.log('unhandled', error); process.exit(3) });
      const engine = await pillion.Engine.load({ model: { echo: {} } });
      const bad = engine.generate({ prompt: 'a', temperature: -1 });
      bad.text; bad.usage; bad.result; bad.finishReason;
      engine.generate({ prompt: 'a', signal: AbortSignal.abort() });
      engine.chat({ messages: [{ role: 'user', content: 'a' }], template: '{{ raise_exception("x") }}' });
      await engine.close();
      engine.generate({ prompt: 'late' });
      await new Promise((done) => setTimeout(done, 20));
      console.log('fine')`
    expectClean(await runNode(script), 'fine')
  })

  test('an engine that is forgotten and idle is collected, one that runs is not', async () => {
    const script = `let engine = await pillion.Engine.load({ model: { echo: { stepMs: 1 } } });
      const idle = new WeakRef(await pillion.Engine.load({ model: { echo: {} } }));
      const text = engine.generate({ prompt: 'x'.repeat(200) }).text;
      engine = undefined;
      for (let i = 0; i < 20; i += 1) { await new Promise((next) => setImmediate(next)); gc() }
      console.log(idle.deref() === undefined, (await text).length)`
    expectClean(await runNode(script, { NODE_OPTIONS: '--expose-gc' }), 'true 200')
  })

  test.skipIf(process.platform !== 'linux')('the thread of an engine that is forgotten ends', async () => {
    const script = `const fs = require('node:fs');
      const threads = () => fs.readdirSync('/proc/self/task').filter((id) => {
        try { return fs.readFileSync('/proc/self/task/' + id + '/comm', 'utf8').trim() === 'pillion-engine' } catch { return false }
      }).length;
      for (let i = 0; i < 3; i += 1) await pillion.Engine.load({ model: { echo: {} } });
      const before = threads();
      for (let i = 0; i < 10_000 && threads() > 0; i += 1) { await new Promise((next) => setImmediate(next)); gc() }
      console.log(before, threads())`
    expectClean(await runNode(script, { NODE_OPTIONS: '--expose-gc' }), '3 0')
  })
})

describe('worker threads', () => {
  const worker = (body: string, then: string): string => `const { Worker } = require('node:worker_threads');
    const worker = new Worker(${JSON.stringify(
      `const pillion = require(${JSON.stringify(`${root}/dist/index.cjs`)}); const { parentPort } = require('node:worker_threads'); (async () => {`,
    )} + ${JSON.stringify(body)} + '})()', { eval: true });
    const message = () => new Promise((done, fail) => { worker.once('message', done); worker.once('error', fail) });
    ${then}`

  test('use it alone', async () => {
    const body = `const engine = await pillion.Engine.load({ model: { echo: {} } });
      parentPort.postMessage(await engine.generate({ prompt: 'from a worker' }).text)`
    const then = `console.log(await message()); await new Promise((done) => worker.once('exit', done))`
    expectClean(await runNode(worker(body, then)), 'from a worker')
  })

  test('use it beside the main thread', async () => {
    const body = `const engine = await pillion.Engine.load({ model: { echo: {} } });
      const { ids } = await engine.tokenizer.encodeBatch(['ab']); parentPort.postMessage([...ids]); await engine.close()`
    const then = `const engine = await pillion.Engine.load({ model: { echo: {} } });
      console.log(await message(), await engine.generate({ prompt: 'main' }).text)`
    expectClean(await runNode(worker(body, then)), '[ 97, 98 ] main')
  })

  const busy = `${long}; parentPort.postMessage('busy')`

  test('terminate while busy', async () => {
    const then = `await message(); await worker.terminate();
      const engine = await pillion.Engine.load({ model: { echo: {} } });
      console.log(await engine.generate({ prompt: 'still fine' }).text)`
    expectClean(await runNode(worker(busy, then)), 'still fine')
  })

  test('terminate while a batch runs', async () => {
    const body = `const engine = await pillion.Engine.load({ model: { echo: {} } });
      engine.tokenizer.encodeBatch(Array.from({ length: 100000 }, () => 'some longer text'));
      parentPort.postMessage('busy')`
    const then = `await message(); await worker.terminate();
      const engine = await pillion.Engine.load({ model: { echo: {} } });
      console.log((await engine.tokenizer.encodeBatch(['ab'])).ids.length)`
    expectClean(await runNode(worker(body, then)), '2')
  })

  test('process.exit while a worker is busy', async () => {
    const ended = await runNode(worker(busy, `await message(); process.exit(5)`))
    expect(ended).toMatchObject({ code: 5, signal: null, stderr: '' })
  })

  test('many workers that come and go', async () => {
    const body = `const engine = await pillion.Engine.load({ model: { echo: { stepMs: 1 } } });
      engine.generate({ prompt: 'x'.repeat(1000) }); parentPort.postMessage('busy')`
    const one = worker(body, 'await message(); await worker.terminate()')
    const script = `for (let i = 0; i < 8; i += 1) { ${one.replaceAll(/\n\s*/g, ' ')} }; console.log('done')`
    expectClean(await runNode(script), 'done')
  })
})
