// Packs the main package and this platform's, installs both into an empty folder as a user would (no install scripts, no cargo, no network),
// runs them from CommonJS and ESM, checks the types as strictly as TypeScript can, and runs the example server on them. With `--portable` the
// binaries must also load on the oldest supported glibc.
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { checkPortable } from './lib/elf.mjs'
import { bridgeFile, hostTarget, platforms } from './platforms.mjs'

const root = resolve(import.meta.dirname, '..')
const platform = platforms[hostTarget()]
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const work = mkdtempSync(join(tmpdir(), 'pillion-pack-'))
const app = join(work, 'app')
// Nothing of this checkout and no compiler: what a user's machine has.
const path = [
  dirname(process.execPath),
  ...(process.platform === 'win32' ? [process.env.SystemRoot] : ['/usr/bin', '/bin']),
]
const env = { ...process.env, PATH: path.join(delimiter), PILLION_NATIVE_PATH: '', NODE_PATH: '' }

try {
  const tarballs = pack()
  install(tarballs)
  checkFiles()
  runModules()
  runDoctor()
  checkTypes()
  await runExample(tarballs)
  console.log('the packed package works')
} finally {
  rmSync(work, { recursive: true, force: true })
}

function step(title) {
  console.log(`- ${title}`)
}

function run(command, args, options = {}) {
  return execFileSync(command, args, {
    cwd: app,
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    ...options,
  })
}

function npm(args, options) {
  return run('npm', [...args, '--loglevel', 'error'], { shell: process.platform === 'win32', ...options })
}

function pack() {
  step('pack')
  const folders = [root, join(root, 'npm', platform.name)]
  return folders.map((cwd) => {
    const [{ filename }] = JSON.parse(npm(['pack', '--json', '--ignore-scripts', '--pack-destination', work], { cwd }))
    return join(work, filename)
  })
}

function install(tarballs) {
  step('install, offline and without scripts')
  assert.throws(
    () => run('cargo', ['--version'], { stdio: 'ignore' }),
    'cargo is on the PATH of this test, which would prove nothing',
  )
  mkdirSync(app)
  writeFileSync(join(app, 'package.json'), '{ "private": true }')
  npm(['install', '--offline', '--ignore-scripts', '--no-audit', '--no-fund', ...tarballs])
}

function checkFiles() {
  step('look at what is there')
  const main = join(app, 'node_modules', 'pillion')
  const native = join(app, 'node_modules', `pillion-${platform.name}`)
  const manifest = JSON.parse(readFileSync(join(main, 'package.json'), 'utf8'))
  assert.equal(manifest.dependencies, undefined, 'the package has no dependencies')
  for (const script of ['preinstall', 'install', 'postinstall', 'prepare'])
    assert.equal(manifest.scripts?.[script], undefined, script)
  const wanted = [
    'index.d.ts',
    'dist/index.cjs',
    'dist/index.mjs',
    'dist/index.d.mts',
    'dist/cli.cjs',
    'dist/doctor-trial.cjs',
    'python/pillion/__init__.py',
    'python/requirements.lock',
    'LICENSE-MIT',
    'LICENSE-APACHE',
    'README.md',
  ]
  for (const file of wanted) assert.ok(existsSync(join(main, file)), `pillion lacks ${file}`)
  for (const file of ['src', 'crates', 'npm', 'python/tests', 'python/pillion/__pycache__'])
    assert.ok(!existsSync(join(main, file)), `pillion has ${file}`)
  const binaries = [`pillion.${platform.name}.node`, bridgeFile(platform)]
  for (const file of [...binaries, 'LICENSE-MIT']) assert.ok(existsSync(join(native, file)), `${native} lacks ${file}`)
  if (process.argv.includes('--portable')) for (const file of binaries) checkPortable(join(native, file), platform)
}

function runModules() {
  step('run from CommonJS and from ESM')
  const use = `
    const tokenizer = (await Engine.load({ model: { echo: {} } })).tokenizer
    const { ids, rowOffsets } = await tokenizer.encodeBatch(['ab', 'c'])
    assert.deepEqual([[...ids], [...rowOffsets]], [[97, 98, 99], [0, 2, 3]])
    const engine = await Engine.load({ model: { echo: {} } })
    const run = engine.generate({ prompt: 'Hello, 🌍' })
    let text = ''
    for await (const delta of run.textStream) text += delta
    assert.equal(text, 'Hello, 🌍')
    assert.equal((await run.usage).completionTokens, 12)
    await engine.close()
    const error = await Tokenizer.fromFile('nowhere').catch((e) => e)
    assert.ok(error instanceof PillionError && error.code === 'model_not_found')
    console.log('fine')`
  const names = '{ Engine, PillionError, Tokenizer }'
  write(
    'use.cjs',
    `const assert = require('node:assert/strict'); const ${names} = require('pillion');\n(async () => {${use}\n})()`,
  )
  write('use.mjs', `import assert from 'node:assert/strict'; import ${names} from 'pillion'\n${use}`)
  // One state, one copy of every class, whichever way it was asked for.
  write(
    'both.mjs',
    `import assert from 'node:assert/strict'; import { createRequire } from 'node:module'; import * as esm from 'pillion'
    const cjs = createRequire(import.meta.url)('pillion')
    assert.deepEqual(Object.keys(esm).sort(), Object.keys(cjs).sort())
    for (const name of Object.keys(cjs)) assert.equal(esm[name], cjs[name], name)
    console.log('fine')`,
  )
  for (const file of ['use.cjs', 'use.mjs', 'both.mjs'])
    assert.equal(run(process.execPath, [file]).trim(), 'fine', file)
  assert.equal(npm(['exec', '--offline', '--', 'pillion', '--version']).trim(), version)
}

function runDoctor() {
  step('see the doctor')
  // Of `PATH`; the package is as good without one, but then only the half of it is seen here.
  const cli = join(app, 'node_modules', 'pillion', 'dist', 'cli.cjs')
  const { status, stdout, stderr } = spawnSync(process.execPath, [cli, 'doctor', '--json'], {
    ...{ cwd: app, encoding: 'utf8' },
    env: { ...env, PILLION_PYTHON: '', VIRTUAL_ENV: '', CONDA_PREFIX: '' },
  })
  assert.equal(stderr, '')
  const report = JSON.parse(stdout)
  assert.deepEqual([report.pillion.version, report.pillion.binary.from], [version, 'package'])
  assert.equal(status, report.healthy ? 0 : 1)
  const isThere = report.pythons.some(({ problem }) => problem === null || problem.code === 'python_library_missing')
  assert.equal(report.healthy, isThere, JSON.stringify(report.problems))
  if (isThere) assert.ok(report.bridges.find(({ isDefault }) => isDefault).roundTrip.count > 0)
}

function checkTypes() {
  step('check the types, skipLibCheck off')
  // The compiler is not what is tested, so it comes from this checkout.
  for (const name of ['@types/node', 'undici-types'])
    cpSync(join(root, 'node_modules', name), join(app, 'node_modules', name), { recursive: true })
  const use = `
    export async function use(): Promise<string> {
      const tokenizer: Tokenizer = await Tokenizer.fromPretrained('model')
      const batch = await tokenizer.encodeBatch(['a', ['b', 'c']], { include: ['offsets'] })
      const offsets: Uint32Array = batch.offsets
      const engine = await Engine.load({ model: 'model', limits: { maxContext: offsets.length }, signal: undefined })
      const run: Generation = engine.chat({ messages: [{ role: 'user', content: 'a' }], stop: ['x'] })
      for await (const part of run) if (part.type === 'finish') return part.finishReason
      return await run.text
    }
    export const isOurs = (error: unknown): string => (PillionError.isInstance(error) ? error.code : '')`
  const names = 'Engine, PillionError, Tokenizer, type Generation'
  write('types.mts', `import { ${names} } from 'pillion'\n${use}`)
  write('types.cts', `import { ${names} } from 'pillion'\n${use}`)
  write('types.ts', `import { ${names} } from 'pillion'\n${use}`)
  const strict = [
    '--noEmit',
    '--strict',
    '--exactOptionalPropertyTypes',
    '--noUncheckedIndexedAccess',
    '--skipLibCheck',
    'false',
    '--target',
    'es2022',
    '--lib',
    'es2022',
    '--types',
    'node',
  ]
  const tsc = (...args) =>
    run(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), ...strict, ...args], {
      stdio: 'inherit',
    })
  tsc('--module', 'node16', '--moduleResolution', 'node16', 'types.mts', 'types.cts')
  tsc('--module', 'esnext', '--moduleResolution', 'bundler', 'types.ts')
}

async function runExample(tarballs) {
  step('run the example server')
  const example = join(work, 'hono-chat')
  cpSync(join(root, 'examples', 'hono-chat'), example, {
    recursive: true,
    filter: (file) => !/node_modules|dist/.test(file),
  })
  const manifest = JSON.parse(readFileSync(join(example, 'package.json'), 'utf8'))
  // The compiler again comes from this checkout; the rest is what the example asks for.
  delete manifest.devDependencies
  writeFileSync(join(example, 'package.json'), JSON.stringify(manifest))
  npm(['install', '--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund', ...tarballs], { cwd: example })
  for (const name of ['@types/node', 'undici-types'])
    cpSync(join(root, 'node_modules', name), join(example, 'node_modules', name), { recursive: true })
  run(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc')], { cwd: example, stdio: 'inherit' })

  const server = spawn(process.execPath, ['dist/server.js'], {
    cwd: example,
    env: { ...env, PORT: '0', MODEL: undefined },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = new Promise((done) => server.on('exit', (code, signal) => done(code ?? signal)))
  try {
    await useExample(await address(server))
  } finally {
    server.kill('SIGTERM')
  }
  assert.equal(await ended, 0, 'the server ends cleanly on SIGTERM')
}

async function address(server) {
  let said = ''
  for await (const chunk of server.stdout.setEncoding('utf8')) {
    said += chunk
    const found = /http:\/\/\S+/.exec(said)
    if (found !== null) return found[0]
  }
  throw new Error(`the server ended without an address: ${said}`)
}

async function useExample(url) {
  const ask = (body, signal) =>
    fetch(`${url}/chat`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal,
    })
  const answer = await ask({ messages: [{ role: 'user', content: 'Hello, 🌍! How are you?' }] })
  const pieces = []
  for await (const piece of answer.body.pipeThrough(new globalThis.TextDecoderStream())) pieces.push(piece)
  assert.equal(pieces.join(''), 'Hello, 🌍! How are you?')
  assert.ok(pieces.length > 1, 'it streams')

  const refused = await ask({ messages: [{ role: 'user', content: 'a' }], maxTokens: -1 })
  assert.equal(refused.status, 400)
  assert.equal((await refused.json()).error.code, 'invalid_argument')

  // A reader that goes ends its work.
  const leaving = new AbortController()
  const long = await ask({ messages: [{ role: 'user', content: 'x'.repeat(5000) }], maxTokens: 5000 }, leaving.signal)
  await long.body.getReader().read()
  leaving.abort()
  const running = async () => (await (await fetch(`${url}/status`)).json()).running
  let asked = 0
  while ((await running()) > 0) assert.ok((asked += 1) < 10_000, 'a run goes on without its reader')
  assert.match(await (await fetch(`${url}/metrics`)).text(), /pillion_requests_aborted_total 1/)
  assert.match(await (await fetch(url)).text(), /<title>pillion chat/)
}

function write(name, text) {
  writeFileSync(join(app, name), text)
}
