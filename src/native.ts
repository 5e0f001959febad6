/** The only file that loads the binary. Loading happens at the first use, so that importing the package never fails. */

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { PillionError } from './errors'
// Written by `napi build`. Not `native.d.ts`: TypeScript would take that for this file's own types.
import type * as Binding from './binding'

export type {
  NativeBatch,
  NativeCancel,
  NativeDecodeStream,
  NativeEngine,
  NativeTexts,
  NativeTokenizer,
} from './binding'
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

/** Where the binary that is used came from. */
export interface NativeOrigin {
  readonly path: string
  /** `'package'`: prebuilt, from the platform's package. `'checkout'`: built where the sources are. `'variable'`: `PILLION_NATIVE_PATH` names it. */
  readonly from: 'package' | 'checkout' | 'variable'
}

let addon: Addon | undefined
let origin: NativeOrigin | undefined

/** The native part, loaded once. Throws `native_load_failed` with every path that was tried and why it did not do. */
export function native(): Addon {
  addon ??= load()
  return addon
}

/** Where the native part was loaded from; loads it if need be, and throws as {@link native} does. */
export function nativeOrigin(): NativeOrigin {
  native()
  if (origin === undefined) throw new Error('a binary without an origin: this is a bug')
  return origin
}

function load(): Addon {
  const tried: string[] = []
  for (const candidate of candidates()) {
    try {
      const loaded = candidate.load() as Addon
      const found = loaded.version()
      if (found === version) {
        origin = { path: candidate.path(), from: candidate.from }
        return loaded
      }
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
  readonly from: NativeOrigin['from']
  path(): string
  load(): unknown
}

function candidates(): Candidate[] {
  const override = process.env['PILLION_NATIVE_PATH']
  if (override !== undefined && override !== '') return [file(resolve(override), 'variable')]
  const triple = target()
  const name = `pillion-${triple}`
  return [
    file(join(packageRoot, 'npm', triple, `pillion.${triple}.node`), 'checkout'),
    {
      name: `package ${name}`,
      from: 'package',
      path: () => require.resolve(name),
      load: () => require(name) as unknown,
    },
  ]
}

function file(path: string, from: NativeOrigin['from']): Candidate {
  return {
    name: path,
    from,
    path: () => path,
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

/** The C library that this Node runs on; absent where there is no choice. */
export function libc(): { readonly name: 'glibc' | 'musl'; readonly version?: string } | undefined {
  if (process.platform !== 'linux') return undefined
  const version = glibcOfReport()
  if (!isMusl()) return version === undefined || version === '' ? { name: 'glibc' } : { name: 'glibc', version }
  const said = spawnSync('ldd', ['--version'], { encoding: 'utf8', timeout: 2000 })
  const found = /^Version (\S+)$/m.exec(`${said.stdout}${said.stderr}`)?.[1]
  return found === undefined ? { name: 'musl' } : { name: 'musl', version: found }
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
