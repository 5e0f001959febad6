// Python inside Node's process, where it meets Node's own OpenSSL, threads, signals and end. Each case is a Node of its own. `npm run matrix` runs
// this file on other versions of Node and Python and under another allocator.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { Engine } from '../src/index'
import { root, runNode, tempFolder, type Ended } from './helpers'

const python = process.env['PILLION_PYTHON'] ?? join(root, '.venv/bin/python')
const models = join(__dirname, 'fixtures/hardening.py')
const timeout = 400_000
const isThere = existsSync(python)

function has(...names: string[]): boolean {
  const question = `import importlib.util as u, sys; sys.exit(any(u.find_spec(n) is None for n in ${JSON.stringify(names)}))`
  try {
    execFileSync(python, ['-c', question], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

const hasTorch = isThere && has('torch')
const hasGrpc = isThere && has('grpc', 'google.protobuf')

/** In a Node of its own: `load()` gives an engine on the harness, `ask(engine, name, arguments)` has it do something, `begun(name)` waits until it does it. */
const prelude = `const { existsSync } = require('node:fs');
  const load = (rest = {}) => pillion.Engine.load({ model: { class: ${JSON.stringify(`${models}:Harness`)} }, python: ${JSON.stringify(python)}, bridge: 'embedded', ...rest });
  const ask = (engine, name, given = {}) => engine.predict({ do: name, with: given });
  const begin = async (engine, name, file) => {
    ask(engine, name, { file }).catch(() => undefined);
    while (!existsSync(file)) await new Promise((next) => setImmediate(next));
  };`

function node(script: string, env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  return runNode(`${prelude}\n${script}`, env, timeout)
}

async function answer<T>(script: string, env: NodeJS.ProcessEnv = {}): Promise<T> {
  const ended = await node(`console.log(JSON.stringify(await (async () => { ${script} })()))`, env)
  expect(ended, ended.stderr).toMatchObject({ code: 0, signal: null })
  return JSON.parse(ended.stdout) as T
}

/** Of `npm run matrix`: what these tests shall run on. */
const expects = JSON.parse(process.env['PILLION_TEST_EXPECTS'] ?? '{}') as {
  node?: string
  python?: string
  mapped?: string
}

describe.skipIf(!isThere)('Python in the process of Node', () => {
  test.runIf(Object.keys(expects).length > 0)('is the one that was asked for', { timeout }, async () => {
    const script = `const { version } = await ask(await load(), 'facts');
      const maps = existsSync('/proc/self/maps') ? require('node:fs').readFileSync('/proc/self/maps', 'utf8') : '';
      return { node: process.versions.node, python: version.join('.'), maps }`
    const found = await answer<{ node: string; python: string; maps: string }>(script)
    expect(found).toMatchObject({ node: expects.node ?? found.node, python: expects.python ?? found.python })
    expect(found.maps).toContain(expects.mapped ?? '')
  })

  test('has its own OpenSSL and zlib, environment and version', { timeout }, async () => {
    const alone = JSON.parse(
      execFileSync(python, [models], { encoding: 'utf8', env: { ...process.env, PYTHONPATH: join(root, 'python') } }),
    ) as object
    expect(await answer<object>(`return await ask(await load(), 'facts')`)).toEqual(alone)
  })

  test('speaks TLS, with Node that speaks TLS too', { timeout }, async () => {
    const script = `const crypto = require('node:crypto'), zlib = require('node:zlib');
      const ours = () => [crypto.createHash('sha256').update('x').digest('hex'), zlib.gunzipSync(zlib.gzipSync('x')).toString()];
      const before = ours();
      const engine = await load();
      const said = [];
      for (let i = 0; i < 20; i += 1) said.push(await ask(engine, 'handshake'));
      return [new Set(said.map(String)).size, said[0], String(before) === String(ours())]`
    expect(await answer(script)).toEqual([1, [0, 'over tls', 'TLSv1.2'], true])
  })

  test('has a stack that is deep enough', { timeout }, async () => {
    expect(await answer(`return await ask(await load(), 'deep')`)).toEqual([1802, 1802])
  })

  test.each(['spawn', 'fork'])('starts processes of its own (%s), and goes on', { timeout }, async (way) => {
    const script = `const engine = await load();
      const said = await ask(engine, 'children', { way: ${JSON.stringify(way)} });
      return [said, (await ask(engine, 'deep'))[0]]`
    expect(await answer(script)).toEqual([['42\n', [1, 2, 3]], 1802])
  })

  test('is shared by engines, and refuses another interpreter', { timeout }, async () => {
    const other = join(tempFolder(), 'env')
    execFileSync(python, ['-m', 'venv', '--without-pip', other])
    const script = `const first = await load(), second = await load();
      await ask(first, 'remember', { word: 'one' });
      const shared = await ask(second, 'remember', { word: 'two' });
      await first.close();
      const error = await load({ python: ${JSON.stringify(other)} }).catch((error) => error);
      return [shared, error.code, error.remedy, (await ask(second, 'deep'))[0]]`
    const [shared, code, remedy, deep] = await answer<[string[], string, string, number]>(script)
    // Each engine's class is loaded from its file anew, the interpreter is one.
    expect(shared).toEqual(['two'])
    expect([code, deep]).toEqual(['bridge_unavailable', 1802])
    expect(remedy).toContain('another process')
  })

  test.runIf(hasTorch)('runs torch, and catches what C++ throws', { timeout }, async () => {
    const found = await answer(`return await ask(await load(), 'torch')`)
    expect(found).toEqual({ shape: [2, 5, 32], finite: true, said: true })
  })

  test.runIf(hasTorch)('has a DataLoader that forks two workers', { timeout }, async () => {
    const script = `const engine = await load();
      const found = await ask(engine, 'loader');
      return [found, (await ask(engine, 'torch')).finite]`
    const sums = [28, 92, 156, 220, 284]
    expect(await answer(script)).toEqual([{ sums: [sums, sums], left: [] }, true])
  })
})

describe.skipIf(!isThere)('the end of the process', () => {
  const busy = ['spin', 'sleep', 'threads']
  const begun = (name: string): string =>
    `const engine = await load(); await begin(engine, ${JSON.stringify(name)}, ${JSON.stringify(join(tempFolder(), 'begun'))});`

  test.each(busy)('process.exit has its code while Python is busy (%s)', { timeout }, async (name) => {
    for (const code of [0, 5, 0, 9]) {
      const ended = await node(`${begun(name)} process.exit(${code})`)
      expect(ended, ended.stderr).toMatchObject({ code, signal: null, stderr: '' })
    }
  })

  test.each(busy)('SIGINT and SIGTERM end it as they end Node (%s)', { timeout }, async (name) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const ended = await node(`${begun(name)} process.kill(process.pid, '${signal}'); setInterval(() => {}, 1000)`)
      expect(ended, ended.stderr).toMatchObject({ code: null, signal })
    }
  })

  test('SIGINT is for the handler in JS, if there is one', { timeout }, async () => {
    const script = `${begun('spin')}
      process.on('SIGINT', () => { console.log('heard'); process.exit(3) });
      process.kill(process.pid, 'SIGINT'); setInterval(() => {}, 1000)`
    expect(await node(script)).toMatchObject({ code: 3, signal: null, stdout: 'heard\n' })
  })

  test('an error that nobody catches ends it as without us', { timeout }, async () => {
    const ended = await node(`${begun('sleep')} setImmediate(() => { throw new Error('mine') })`)
    expect(ended).toMatchObject({ code: 1, signal: null })
    expect(ended.stderr).toContain('mine')
  })

  test('natural, when there is nothing more to do', { timeout }, async () => {
    expect(await node(`const engine = await load(); await ask(engine, 'deep')`)).toMatchObject({ code: 0, stderr: '' })
  })

  test('a segmentation fault in Python is one of the process', { timeout }, async () => {
    const ended = await node(`await ask(await load(), 'segfault')`)
    expect(ended).toMatchObject({ code: null, signal: 'SIGSEGV' })
  })
})

describe.skipIf(!isThere)('worker threads', () => {
  /** A worker thread that runs `body`, and then `then` in the main one. */
  const inWorker = (body: string, then: string): string => {
    const head = `const pillion = require(${JSON.stringify(join(root, 'dist/index.cjs'))}); const { parentPort } = require('node:worker_threads');`
    const whole = `${head}\n${prelude}\n(async () => { ${body} })()`
    return `const { Worker } = require('node:worker_threads');
      const worker = new Worker(${JSON.stringify(whole)}, { eval: true });
      const message = new Promise((done, fail) => { worker.once('message', done); worker.once('error', fail) });
      const exited = new Promise((done) => worker.once('exit', done));
      ${then}`
  }
  const deep = `const engine = await load(); parentPort.postMessage((await ask(engine, 'deep'))[0]);`

  test('one alone, which ends', { timeout }, async () => {
    const then = `const said = await message; await exited; return said`
    expect(await answer(inWorker(deep, then))).toBe(1802)
  })

  test('one beside the main thread, and the main thread after it', { timeout }, async () => {
    const then = `const engine = await load();
      const both = await Promise.all([message, ask(engine, 'deep')]);
      await worker.terminate();
      return [both[0], both[1][0], (await ask(engine, 'deep'))[0]]`
    expect(await answer(inWorker(deep, then))).toEqual([1802, 1802, 1802])
  })

  test('one that is ended while Python is busy', { timeout }, async () => {
    for (const name of ['await worker.terminate(); return 7', 'process.exit(7)']) {
      const file = JSON.stringify(join(tempFolder(), 'begun'))
      const body = `const engine = await load(); await begin(engine, 'sleep', ${file}); parentPort.postMessage(1)`
      const script = inWorker(body, `await message; ${name}`)
      const ended = await node(`process.exitCode = await (async () => { ${script} })()`)
      expect(ended, ended.stderr).toMatchObject({ code: 7, signal: null })
    }
  })
})

describe.skipIf(!isThere)('the other bridges', () => {
  test.runIf(process.platform === 'linux').each(hasGrpc ? (['shm', 'grpc'] as const) : (['shm'] as const))(
    '%s answers, and leaves its process when it is closed',
    { timeout },
    async (bridge) => {
      const engine = await Engine.load<object>({ model: { class: `${models}:Harness` }, python, bridge })
      const pid = engine.status().workers[0]!.pid
      expect(pid).not.toBe(process.pid)
      expect(await engine.predict({ do: 'deep' })).toEqual([1802, 1802])
      expect(await engine.predict({ do: 'handshake' })).toEqual([0, 'over tls', 'TLSv1.2'])
      if (hasTorch) expect(await engine.predict({ do: 'loader' })).toMatchObject({ left: [] })
      await engine.close()
      expect(() => process.kill(pid, 0)).toThrow('ESRCH')
    },
  )
})
