// What a step costs on each bridge, from Rust and from JS, beside what it would cost without: `src/main.rs` says what is timed.
//
//   npm run build && npm run bench -- bridge [--only step,free,crowded,tensor,busy,memory,kill] [--rounds 5] [--calls 3000] [--steps 100000] [--kills 12] [--cpu 0]
//     [--model .models/smollm2]
//
// Everything takes turns in each round. Pinned means that both sides share one processor, where a round trip is what the two sides do;
// free-running, the way is also that of waking an idle processor, which is a property of the machine.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { table } from '../tokenize/table'

const here = path.dirname(fileURLToPath(import.meta.url))
const root = path.resolve(here, '../..')
const parts = ['step', 'free', 'crowded', 'tensor', 'busy', 'memory', 'kill'] as const
const { values } = parseArgs({
  options: {
    only: { type: 'string', default: parts.join() },
    rounds: { type: 'string', default: '5' },
    calls: { type: 'string', default: '3000' },
    steps: { type: 'string', default: '100000' },
    kills: { type: 'string', default: '12' },
    cpu: { type: 'string', default: '0' },
    model: { type: 'string', default: path.join(root, '.models/smollm2') },
  },
})
const only = values.only.split(',')
const unknown = only.filter((part) => !(parts as readonly string[]).includes(part))
if (unknown.length > 0) throw new Error(`--only takes ${parts.join()}, not ${unknown.join()}`)
const rounds = Number(values.rounds)
const calls = Number(values.calls)
const python = process.env['PILLION_PYTHON'] ?? path.join(root, '.venv/bin/python')
const bridges = ['embedded', 'shm', 'grpc'] as const
type Bridge = (typeof bridges)[number]
/**
 * Copies of a tensor's bytes on its way there and back. embedded: into a `bytes` object; into a buffer of Rust's. shm: into the pool of
 * inputs; into the pool of results. One that was put into the store lies there already. grpc: record, message, socket, gRPC's buffer, `bytes`,
 * the record out of it; record, message, gRPC's buffer, socket, buffer, the field out of it, the tensor out of that.
 */
const TENSORS = [
  { who: 'embedded', what: '1 MiB held', named: 'embedded, from its store', copies: [0, 1] },
  { who: 'shm', what: '1 MiB held', named: 'shm, from its store', copies: [0, 1] },
  { who: 'embedded', what: '1 MiB', named: "embedded, from the caller's memory", copies: [1, 1] },
  { who: 'shm', what: '1 MiB', named: "shm, from the caller's memory", copies: [1, 1] },
  { who: 'grpc', what: '1 MiB', named: "grpc, from the caller's memory", copies: [6, 7] },
] as const

interface Times {
  readonly p50: number
  readonly p99: number
  readonly max: number
}
/** A line that the programs print. */
interface Line {
  readonly what: string
  readonly who: string
  readonly us: Times
}

const { program, addon, library } = build()
const setup = { python, root, library, stub: {}, bridges }
const [cpu] = os.cpus()
console.log(`# What a step costs on each bridge

${os.cpus().length} cores (${cpu?.model.trim() ?? 'unknown'}), load ${os.loadavg()[0]?.toFixed(1) ?? '?'} at the start; Node ${process.version}; medians of ${rounds} rounds, microseconds.
`)
if (only.includes('step')) await steps(['pinned', values.cpu], 'pinned to one processor')
if (only.includes('free')) await steps([], 'free-running')
if (only.includes('crowded')) crowded()
if (only.includes('tensor')) await tensors()
if (only.includes('busy')) await busy()
if (only.includes('memory')) memory()
if (only.includes('kill')) kill()
console.log(`load ${os.loadavg()[0]?.toFixed(1) ?? '?'} at the end`)

/** The program, the addon for Node and the bridge's library, all as they are published. */
function build(): { program: string; addon: string; library: string } {
  execFileSync('cargo', ['build', '--release'], { cwd: here, stdio: 'inherit' })
  execFileSync('cargo', ['build', '--release', '--package', 'pillion-bridge'], { cwd: root, stdio: 'inherit' })
  const target = (folder: string): string => path.join(process.env['CARGO_TARGET_DIR'] ?? path.join(folder, 'target'))
  const built = path.join(target(here), 'release')
  const addon = path.join(built, 'bridge_bench.node')
  const prefix = process.platform === 'win32' ? '' : 'lib'
  const suffix = { win32: 'dll', darwin: 'dylib' }[process.platform as string] ?? 'so'
  copyFileSync(path.join(built, `${prefix}bridge_bench.${suffix}`), addon)
  return {
    program: path.join(built, 'bridge-bench'),
    addon,
    library: path.join(target(root), `release/${prefix}pillion_bridge.${suffix}`),
  }
}

/** Runs a command of the program and gives its lines. */
function measure(pin: string[], command: string, options: object): Line[] {
  const said = [command, JSON.stringify({ ...setup, ...options })]
  return lines(program, pin.length > 0 ? [...pin, program, ...said] : said)
}

function lines(command: string, args: string[]): Line[] {
  const out = execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], cwd: here })
  return out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line)
}

async function steps(pin: string[], title: string): Promise<void> {
  const found: Line[] = []
  const options = { rounds: 1, calls, warmUp: Math.ceil(calls / 5) }
  for (let round = 0; round < rounds; round += 1) {
    // Another begins each round.
    const order = bridges.map((_, i) => bridges[(i + round) % bridges.length]!)
    found.push(...measure(pin, 'steps', { ...options, bridges: order }))
    const json = JSON.stringify({ ...setup, ...options, bridges: order })
    for (const script of [
      ['js.mts', addon, json],
      ['predict.mts', json],
    ]) {
      const node = [process.execPath, '--import', 'tsx', path.join(here, script[0]!), ...script.slice(1)]
      found.push(...lines(pin.length > 0 ? program : node[0]!, pin.length > 0 ? [...pin, ...node] : node.slice(1)))
    }
    for (const who of ['unary', 'json']) found.push(await timePeer(pin, who))
    console.error(`steps, ${title}: round ${round + 1} of ${rounds}`)
  }
  const row = (name: string, what: string, who: string, bar?: number): string[] => {
    const all = found.filter((line) => line.what === what && line.who === who).map((line) => line.us)
    const p50 = median(all.map((us) => us.p50))
    return [name, fixed(p50), fixed(median(all.map((us) => us.p99))), ...verdict(p50, pin.length > 0 ? bar : undefined)]
  }
  print(
    `A step of 32 decode rows and back, ${title}`,
    ['', 'p50', 'p99', 'bar', ''],
    [
      row('waking another thread and back, no Python', 'step', 'wake'),
      row('echo on the Python thread', 'step', 'echo', 1),
      row('embedded, from Rust', 'step', 'embedded', 5),
      row('shm, from Rust', 'step', 'shm', 8),
      row('gRPC stream, from Rust', 'step', 'grpc', 70),
      row('embedded, from JS', 'step from JS', 'embedded', 15),
      row('shm, from JS', 'step from JS', 'shm', 18),
      row('gRPC stream, from JS', 'step from JS', 'grpc', 95),
      ...bridges.map((bridge) => row(`engine.predict(7) in JS, ${bridge}`, 'predict', bridge)),
      row('JSON over a Unix socket, Python to Python', 'peer', 'json'),
      row('plain unary grpcio, Python to Python', 'peer', 'unary'),
    ],
  )
}

/** Calls of the package on one processor with another process that never rests. */
function crowded(): void {
  const pin = ['pinned', values.cpu, process.execPath]
  const other = spawn(program, [...pin, '--eval', 'for (;;);'], { stdio: 'ignore' })
  try {
    const json = JSON.stringify({ ...setup, calls: Math.ceil(calls / 4), warmUp: Math.ceil(calls / 20) })
    const predict = [...pin, '--import', 'tsx', path.join(here, 'predict.mts'), json]
    const found = Array.from({ length: rounds }, () => lines(program, predict)).flat()
    const of = (bridge: string, part: 'p50' | 'p99'): string =>
      fixed(median(found.filter(({ who }) => who === bridge).map(({ us }) => us[part])))
    print(
      'engine.predict(7) in JS beside a busy loop on the same processor',
      ['', 'p50', 'p99'],
      bridges.map((bridge) => [bridge, of(bridge, 'p50'), of(bridge, 'p99')]),
    )
  } finally {
    other.kill()
  }
}

async function timePeer(pin: string[], who: string): Promise<Line> {
  const peer = await startPeer(pin, [who, String(calls), String(Math.ceil(calls / 5))])
  const times = ((await peer.ask()) as number[]).map((ns) => ns / 1000).sort((a, b) => a - b)
  peer.stop()
  const at = (part: number): number => times[Math.round((times.length - 1) * part)]!
  return { what: 'peer', who, us: { p50: at(0.5), p99: at(0.99), max: at(1) } }
}

/** A program of `peers.py`, asked over its standard input. */
async function startPeer(pin: string[], args: string[]) {
  const command = [python, path.join(here, 'peers.py'), ...args]
  const [file, ...rest] = pin.length > 0 ? [program, ...pin, ...command] : command
  const child = spawn(file!, rest, { stdio: ['pipe', 'pipe', 'inherit'] })
  const said = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const next = async (): Promise<string> => {
    const { value, done } = await said.next()
    if (done) throw new Error(`peers.py ${args.join(' ')} ended`)
    return value
  }
  await next()
  return {
    async ask(): Promise<unknown> {
      child.stdin.write('\n')
      return JSON.parse(await next())
    },
    stop: () => child.stdin.end(),
  }
}

async function tensors(): Promise<void> {
  const count = Math.min(calls, 500)
  const found = measure(['pinned', values.cpu], 'tensors', { rounds, calls: count })
  const times = (what: string, who: string): Times[] =>
    found.filter((line) => line.what === what && line.who === who).map((line) => line.us)
  const p50 = (what: string, who: string): number => median(times(what, who).map((us) => us.p50))
  const p99 = (what: string, who: string): number => median(times(what, who).map((us) => us.p99))
  const memcpy = (buffers: number): number => p50(`memcpy, ${buffers} buffers`, 'rust')
  const rows = TENSORS.map(({ who, what, named, copies }) => {
    const [empty, forward, full] = [p50('empty step', who), p50('empty forward', who), p50(what, who)]
    // gRPC has no bar: its bytes go through a socket.
    const bar = who === 'grpc' ? undefined : empty + 1.5 * 2 * memcpy(2)
    const cells = [full, p99(what, who), empty, forward].map(fixed)
    return [named, `${copies[0]} + ${copies[1]}`, ...cells, ...verdict(full, bar)]
  })
  print(
    'A tensor of 1 MiB there and one back, from Rust, pinned to one processor (bar: empty step + 1.5 x memcpy for each way)',
    ['', 'copies there + back', 'p50', 'p99', 'empty step', 'empty forward', 'bar', ''],
    rows,
  )
  console.log(`memcpy(1 MiB): ${fixed(memcpy(2))} between two buffers, which is the bar's, and ${fixed(memcpy(3))} from the first of three to the third.
What is copied twice lies in three places, which together may not fit into the cache that holds two.`)
}

async function busy(): Promise<void> {
  const ms = 5
  const count = 200
  const bare = await startPeer([], ['bare', String(count), String(ms)])
  const options = { ...setup, rounds, calls: count, warmUp: 5, stub: { busyMs: ms } }
  const child = spawn(program, ['busy', JSON.stringify(options)], { stdio: ['pipe', 'pipe', 'inherit'] })
  const found: { who: string; inFlight: number; round: number; seconds: number }[] = []
  const bares: number[] = []
  for await (const text of createInterface({ input: child.stdout })) {
    const line = JSON.parse(text) as (typeof found)[number] & { what: string }
    if (line.what !== 'turn') {
      found.push(line)
      continue
    }
    bares.push(((await bare.ask()) as number) / 1e9)
    console.error(`busy: round ${bares.length} of ${rounds}`)
    child.stdin.write('\n')
  }
  if (child.exitCode === null) await once(child, 'exit')
  if (child.exitCode !== 0) throw new Error(`the program ended with ${child.exitCode}`)
  bare.stop()
  const rows = bridges.flatMap((who) =>
    [2, 1].map((inFlight) => {
      const took = found.filter((line) => line.who === who && line.inFlight === inFlight)
      const ratio = median(took.map((line) => line.seconds / bares[line.round]!))
      const bar = inFlight === 2 && who !== 'grpc' ? 1.01 : undefined
      return [who, String(inFlight), ratio.toFixed(4), ...verdict(ratio, bar, 2)]
    }),
  )
  print(
    `${count} decode steps of a model that is busy for ${ms} ms, 32 rows, over as many bare ones; free-running`,
    ['', 'in flight', 'wall / bare', 'bar', ''],
    rows,
  )
}

function memory(): void {
  // What allocators keep settles first.
  const found = measure([], 'memory', { calls: Number(values.steps), warmUp: Math.ceil(Number(values.steps) / 2) })
  const mib = (bytes: number): number => bytes / 2 ** 20
  const rows = (found as unknown as { who: Bridge; steps: number; before: number; after: number }[]).map((line) => {
    const grown = mib(line.after - line.before)
    return [line.who, String(line.steps), fixed(mib(line.before)), grown.toFixed(2), ...verdict(grown, 1, 0)]
  })
  print(
    'Resident memory of both sides over many steps, every hundredth a forward with 1 MiB each way, after half as many to warm up',
    ['', 'steps', 'MiB before', 'MiB grown', 'bar', ''],
    rows,
  )
}

function kill(): void {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'pillion-bench-'))
  try {
    const tiny = path.join(folder, 'tiny-llama')
    execFileSync(python, [path.join(root, 'scripts/models.py'), 'tiny', '--out', tiny], { stdio: 'ignore' })
    const models = [{ name: 'tiny', model: tiny, rounds: Number(values.kills), tokens: 48, vocabulary: 256 }]
    if (values.kills === '0') models.pop()
    if (existsSync(values.model)) {
      const name = path.basename(values.model)
      models.push({ name, model: values.model, rounds: 3, tokens: 8, vocabulary: 40_000 })
    }
    const rows = models.flatMap(({ name, ...options }) =>
      (['shm', 'grpc'] as const).flatMap((bridge) => {
        console.error(`kill: ${name}, ${bridge}`)
        const [line] = measure([], 'kill', { ...options, bridges: [bridge] }) as unknown as [
          { kills: number; streams: number; differing: number; of: number; busy: Times; idle: Times },
        ]
        const row = (when: string, us: Times): string[] => [
          `${bridge}, ${name}, ${when}`,
          String(line.kills),
          fixed(us.p50 / 1000),
          ...[fixed(us.p99 / 1000), ...verdict(us.p99 / 1000, 10, 0)],
        ]
        const same = `${line.of - line.differing} of ${line.of}`
        return [
          [...row(`during ${line.streams} streams`, line.busy), same, line.differing === 0 ? 'met' : 'not met'],
          [...row('idle', line.idle), '', ''],
        ]
      }),
    )
    print(
      'kill -9 of the worker, until the loss is told; greedy streams in float32 against their text without it',
      ['', 'kills', 'p50, ms', 'p99, ms', 'bar', '', 'streams as they would have been', ''],
      rows,
    )
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function print(title: string, head: string[], rows: string[][]): void {
  console.log(`## ${title}\n\n${table(head, rows)}\n`)
}

/** The bar, and whether what was measured keeps it. */
function verdict(value: number, bar?: number, digits = 1): [string, string] {
  if (bar === undefined) return ['', '']
  return [`<= ${Number(bar.toFixed(digits))}`, value <= bar ? 'met' : 'not met']
}

function fixed(value: number): string {
  return value.toFixed(value < 10 ? 2 : 1)
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}
