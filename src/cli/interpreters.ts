/** Looks for Python interpreters and says which can be used. What is chosen is a pure function of what they say of themselves. */

import { spawnSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** An interpreter, and why it cannot be used if it cannot. */
export interface Interpreter {
  readonly path: string
  readonly executable?: string
  readonly version?: string
  readonly problem?: string
  /** What will not work with it, though it can be used. */
  readonly warning?: string
}

/** What an interpreter says of itself. */
export interface Answer {
  readonly executable: string
  readonly version: readonly [major: number, minor: number, micro: number]
  readonly implementation: string
  readonly freeThreaded: boolean
  readonly libpython: boolean
  readonly venv: boolean
}

const question = `
import importlib.util, json, os, sys, sysconfig
var = sysconfig.get_config_var
dirs = [var("LIBDIR"), os.path.join(var("LIBDIR") or "", var("MULTIARCH") or ""), var("LIBPL"), os.path.join(sys.base_prefix, "lib"), var("PYTHONFRAMEWORKPREFIX"), sys.base_prefix]
names = [n for n in (var("INSTSONAME"), var("LDLIBRARY"), "python%d%d.dll" % sys.version_info[:2]) if n and not n.endswith(".a")]
print(json.dumps({
    "executable": sys.executable,
    "version": sys.version_info[:3],
    "implementation": sys.implementation.name,
    "freeThreaded": bool(var("Py_GIL_DISABLED")),
    "libpython": any(d and os.path.exists(os.path.join(d, n)) for d in dirs for n in names),
    "venv": all(importlib.util.find_spec(m) is not None for m in ("venv", "ensurepip")),
}))
`

const minors = [14, 13, 12, 11]

/** The interpreter of a virtual environment. */
export function environmentPython(dir: string): string {
  return process.platform === 'win32' ? join(dir, 'Scripts', 'python.exe') : join(dir, 'bin', 'python')
}

/** Every interpreter to consider, best first, asked what it is. A named one is the only one. */
export function findInterpreters(explicit: string | undefined): Interpreter[] {
  const named = explicit ?? nonEmpty(process.env['PILLION_PYTHON'])
  if (named !== undefined) return [probe(isFolder(named) ? environmentPython(named) : named)]
  return ['python3', ...minors.map((minor) => `python3.${minor}`), 'python'].map(probe)
}

/** The first that can be used, one that can be used for everything before others. */
export function choose(found: readonly Interpreter[]): Interpreter | undefined {
  const usable = found.filter(({ problem }) => problem === undefined)
  return usable.find(({ warning }) => warning === undefined) ?? usable[0]
}

/** Asks an interpreter what it is, in a child process. */
export function probe(path: string): Interpreter {
  const child = spawnSync(path, ['-I', '-c', question], { encoding: 'utf8', timeout: 30_000 })
  if (child.error !== undefined) {
    const missing = (child.error as NodeJS.ErrnoException).code === 'ENOENT'
    return { path, problem: missing ? 'not found' : child.error.message }
  }
  try {
    return judge(path, JSON.parse(child.stdout) as Answer)
  } catch {
    const said = child.stderr.trim().split('\n').at(-1) ?? ''
    return {
      path,
      problem: `it did not say what it is (exit status ${String(child.status)})${said === '' ? '' : `: ${said}`}`,
    }
  }
}

/** What speaks against an interpreter. */
export function judge(path: string, answer: Answer): Interpreter {
  const [major, minor, micro] = answer.version
  const version = `${major}.${minor}.${micro}`
  const known = { path, executable: answer.executable, version }
  const problem = (text: string): Interpreter => ({ ...known, problem: text })
  if (answer.implementation !== 'cpython') return problem(`it is ${answer.implementation}, and CPython is needed`)
  if (major !== 3 || minor < 11) return problem(`its version is ${version}, and 3.11 or newer is needed`)
  if (answer.freeThreaded) return problem('it is a free-threaded build, which is not supported yet')
  if (!answer.venv) return problem('it has no venv module (on Debian and Ubuntu: apt-get install python3-venv)')
  if (answer.libpython) return known
  const remedy = 'on Debian and Ubuntu: apt-get install libpython3-dev'
  return { ...known, warning: `it has no shared libpython, so that only bridge: 'shm' will work with it (${remedy})` }
}

function isFolder(path: string): boolean {
  return existsSync(path) && statSync(path).isDirectory()
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === '' ? undefined : value
}
