/** The only file that loads the binary. Loading happens at the first use, so that importing the package never fails. */

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { PillionError } from './errors'
// Written by `napi build`. Not `native.d.ts`: TypeScript would take that for this file's own types.
import type * as Binding from './binding'

export type { NativeCancel, NativeDecodeStream, NativeEngine, NativeTexts, NativeTokenizer } from './binding'
type Addon = typeof Binding

/** The version of this package; replaced when it is built. */
declare const __VERSION__: string

// Both `src/` (tests) and `dist/` (the package) lie right under the package's root.
const packageRoot = resolve(__dirname, '..')

/** The folder that holds the Python package `pillion`. */
export const pythonFolder = join(packageRoot, 'python')

/** The version of this package. */
export const version: string =
  typeof __VERSION__ === 'string'
    ? __VERSION__
    : (JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string }).version

let addon: Addon | undefined

/** The native part, loaded once. Throws `native_load_failed` with every path that was tried and why it did not do. */
export function native(): Addon {
  addon ??= load()
  return addon
}

function load(): Addon {
  const tried: string[] = []
  for (const candidate of candidates()) {
    try {
      const loaded = candidate.load() as Addon
      const found = loaded.version()
      if (found === version) return loaded
      tried.push(`${candidate.name}: is version ${found}, the package is ${version}`)
    } catch (error) {
      tried.push(`${candidate.name}: ${reason(error)}`)
    }
  }
  throw new PillionError({
    code: 'native_load_failed',
    message: `the native binary for ${target()} could not be loaded; tried:\n${tried.map((line) => `  - ${line}`).join('\n')}`,
    remedy: `install the optional package pillion-${target()} in version ${version} (package managers leave it out with --omit=optional), or set PILLION_NATIVE_PATH to a binary that you have built`,
  })
}

interface Candidate {
  readonly name: string
  load(): unknown
}

function candidates(): Candidate[] {
  const override = process.env['PILLION_NATIVE_PATH']
  if (override !== undefined && override !== '') return [file(resolve(override))]
  const triple = target()
  const name = `pillion-${triple}`
  return [
    file(join(packageRoot, 'npm', triple, `pillion.${triple}.node`)),
    { name: `package ${name}`, load: () => require(name) as unknown },
  ]
}

function file(path: string): Candidate {
  return {
    name: path,
    load: () => {
      if (!existsSync(path)) throw new Error('there is no such file')
      return require(path) as unknown
    },
  }
}

function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  // Node appends the chain of files that asked for a missing module, which says nothing here.
  return message.split('\nRequire stack:')[0] ?? message
}

/** The platform's name as in the platform packages: `linux-x64-gnu`, `darwin-arm64`, `win32-x64-msvc`. */
export function target(): string {
  const base = `${process.platform}-${process.arch}`
  if (process.platform === 'linux') return `${base}-${isMusl() ? 'musl' : 'gnu'}`
  return process.platform === 'win32' ? `${base}-msvc` : base
}

function isMusl(): boolean {
  // Cheapest first; the report is complete but takes milliseconds, and ldd is a child process.
  try {
    return readFileSync('/usr/bin/ldd', 'utf8').includes('musl')
  } catch {
    // No readable ldd: slim and distroless images.
  }
  const report = glibcOfReport()
  if (report !== undefined) return report === ''
  const ldd = spawnSync('ldd', ['--version'], { encoding: 'utf8', timeout: 2000 })
  return `${ldd.stdout}${ldd.stderr}`.includes('musl')
}

/** The C library's version if this Node runs on glibc, an empty text if not, `undefined` if Node does not say. */
function glibcOfReport(): string | undefined {
  // Newer than the oldest Node's types.
  const report = process.report as typeof process.report & { excludeNetwork?: boolean }
  const before = report.excludeNetwork
  report.excludeNetwork = true
  const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } }
  report.excludeNetwork = before ?? false
  return header === undefined ? undefined : (header.glibcVersionRuntime ?? '')
}
