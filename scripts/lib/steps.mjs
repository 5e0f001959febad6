// Runs named steps with their output shown, stops at the first failure, and adds up what the test runners counted.
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import path from 'node:path'

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..')
export const isWindows = process.platform === 'win32'

/** Reads the counts that a test runner prints; each gives { passed, failed }. */
export const counters = {
  cargo: (output) => sum(output.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed/gm)),
  pytest: (output) => {
    const line = output.match(/^=* ?(?:\d+ \w+, )*\d+ (?:passed|failed|error).*$/gm)?.at(-1) ?? ''
    return { passed: number(line, /(\d+) passed/), failed: number(line, /(\d+) failed/) + number(line, /(\d+) error/) }
  },
  vitest: (output) => {
    const line = output.match(/^\s*Tests\s+.*$/gm)?.at(-1) ?? ''
    return { passed: number(line, /(\d+) passed/), failed: number(line, /(\d+) failed/) }
  },
  /** A script that is one check: passed if it exits with 0. */
  one: (_, code) => (code === 0 ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 }),
}

const totals = { passed: 0, failed: 0 }
const started = Date.now()

/** Runs a command in the project's root. `count` is one of `counters`; `keepGoing` returns instead of exiting when it fails. */
export async function step(title, command, args, { count, env = {}, cwd = root, keepGoing = false } = {}) {
  const begin = Date.now()
  process.stdout.write(`\n▸ ${title}\n  ${[command, ...args].join(' ')}\n`)
  const { code, output } = await run(command, args, { env, cwd })
  const seconds = ((Date.now() - begin) / 1000).toFixed(1)
  if (count) {
    const counted = count(stripAnsi(output), code)
    // A runner that failed without saying how many tests did still failed.
    if (code !== 0 && counted.failed === 0) counted.failed = 1
    totals.passed += counted.passed
    totals.failed += counted.failed
    if (code === 0 && counted.passed === 0) return fail(`${title} ran no test`)
  }
  if (code !== 0 && !keepGoing) return fail(`${title} failed (exit ${code}) after ${seconds} s`)
  process.stdout.write(`${code === 0 ? '✓' : '✗'} ${title}, ${seconds} s\n`)
  return { code, output }
}

/** Prints the totals as the last line and exits with what they say. */
export function finish() {
  process.stdout.write(`\nall steps took ${((Date.now() - started) / 1000).toFixed(0)} s\n`)
  process.stdout.write(`${totals.passed} passed, ${totals.failed} failed\n`)
  process.exit(totals.failed === 0 ? 0 : 1)
}

export function fail(reason) {
  process.stdout.write(`\n✗ ${reason}\n`)
  if (totals.failed === 0) totals.failed = 1
  finish()
}

/** Runs a command and keeps its output; with `quiet` it is not shown. Never throws. */
export function run(command, args, { env = {}, cwd = root, quiet = false } = {}) {
  return new Promise((resolve) => {
    let output = ''
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      shell: isWindows && (command === 'npm' || command === 'npx'),
    })
    for (const [stream, to] of [
      [child.stdout, process.stdout],
      [child.stderr, process.stderr],
    ]) {
      stream.on('data', (chunk) => {
        output += chunk
        if (!quiet) to.write(chunk)
      })
    }
    child.on('error', (error) => resolve({ code: 127, output: String(error) }))
    child.on('close', (code, signal) => resolve({ code: code ?? (signal ? 128 : 1), output }))
  })
}

function number(line, pattern) {
  return Number(line.match(pattern)?.[1] ?? 0)
}

function sum(matches) {
  const total = { passed: 0, failed: 0 }
  for (const match of matches) {
    total.passed += Number(match[1])
    total.failed += Number(match[2])
  }
  return total
}

function stripAnsi(text) {
  // eslint-disable-next-line no-control-regex -- the escape character is what is to be removed
  return text.replace(/\u001b\[[0-9;]*m/g, '')
}
