/** `pillion setup`: a virtual environment with what models need. Safe to repeat; what is done already is not done again. */

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { choose, environmentPython, findInterpreters, probe, type Interpreter } from './interpreters'
import { Failure, say } from './say'

export interface SetupOptions {
  readonly python: string | undefined
  readonly dir: string
  readonly indexUrl: string | undefined
  /** The folder with `requirements.lock`. */
  readonly pythonFolder: string
}

/** Written last, so that an interrupted set-up is not taken for a whole one. */
const stampName = 'pillion-setup.json'
const verify = 'import torch, transformers; print(torch.__version__, transformers.__version__)'
// Without the seconds that importing torch takes.
const quickVerify =
  'import importlib.util as u, sys; sys.exit(any(u.find_spec(n) is None for n in ("torch", "transformers")))'

export async function setup(options: SetupOptions): Promise<void> {
  const lock = join(options.pythonFolder, 'requirements.lock')
  if (!existsSync(lock)) throw new Failure(`the package is incomplete: there is no ${lock}`, 'install pillion again')
  const dir = resolve(options.dir)
  const python = environmentPython(dir)
  const stamp = stampOf(lock)

  if (readStamp(dir) === stamp && (await succeeds(python, ['-c', quickVerify]))) {
    say(`${shown(dir)} is set up already`)
    return
  }
  if (existsSync(join(dir, 'pyvenv.cfg'))) checkEnvironment(dir, python)
  else await makeEnvironment(dir, options.python)

  await ensurePip(python, dir)
  say(`installing the packages of ${shown(lock)} into ${shown(dir)}`)
  const index = options.indexUrl === undefined ? [] : ['--index-url', options.indexUrl]
  await run(python, ['-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', ...index, '-r', lock], {
    failed: 'the packages could not be installed; what pip said is above',
    hint: 'check the network, or name a mirror with --index-url; then run the same command again',
  })
  say('checking that they import')
  await run(python, ['-c', verify], {
    failed: 'torch or transformers was installed but does not import; the reason is above',
    hint: `remove ${shown(dir)} and run the same command again`,
  })
  writeFileSync(join(dir, stampName), `${stamp}\n`)
  say(`done: pillion finds ${shown(dir)} from here and from every folder below`)
}

function checkEnvironment(dir: string, python: string): void {
  const remedy = `remove ${shown(dir)}, or name another folder with --dir`
  if (!existsSync(python)) throw new Failure(`${shown(dir)} is a virtual environment without an interpreter`, remedy)
  const found = probe(python)
  if (found.problem !== undefined) throw new Failure(`${shown(dir)} cannot be used: ${found.problem}`, remedy)
  say(`using ${shown(dir)}, which is there already (Python ${found.version ?? 'unknown'})`)
}

async function makeEnvironment(dir: string, explicit: string | undefined): Promise<void> {
  if (existsSync(dir)) {
    throw new Failure(`${shown(dir)} exists and is no virtual environment`, 'name another folder with --dir')
  }
  const interpreter = pick(explicit)
  if (interpreter.warning !== undefined) say(`warning: ${interpreter.path}: ${interpreter.warning}`)
  say(`making ${shown(dir)} from Python ${interpreter.version ?? ''} at ${interpreter.executable ?? interpreter.path}`)
  await run(interpreter.executable ?? interpreter.path, ['-m', 'venv', dir], {
    failed: `${shown(dir)} could not be made`,
    hint: 'on Debian and Ubuntu: apt-get install python3-venv',
  })
}

function pick(explicit: string | undefined): Interpreter {
  const found = findInterpreters(explicit)
  const chosen = choose(found)
  if (chosen !== undefined) return chosen
  const refused = found.map(({ path, problem }) => `  - ${path}: ${problem ?? ''}`).join('\n')
  throw new Failure(
    `no Python of version 3.11 or newer was found; tried:\n${refused}`,
    'install one (on Debian and Ubuntu: apt-get install python3 python3-venv libpython3-dev), or name it with --python',
  )
}

async function ensurePip(python: string, dir: string): Promise<void> {
  if (await succeeds(python, ['-m', 'pip', '--version'])) return
  await run(python, ['-m', 'ensurepip', '--upgrade'], {
    failed: `${shown(dir)} has no pip, and it could not be added`,
    hint: `remove ${shown(dir)} and run the same command again, or add pip to it`,
  })
}

function stampOf(lock: string): string {
  return createHash('sha256').update(readFileSync(lock)).digest('hex')
}

function readStamp(dir: string): string | undefined {
  try {
    return readFileSync(join(dir, stampName), 'utf8').trim()
  } catch {
    return undefined
  }
}

function shown(path: string): string {
  const short = relative(process.cwd(), path)
  return short === '' || short.startsWith('..') ? path : short
}

/** Runs a command whose output people see as it comes, on stderr. */
async function run(command: string, args: string[], on: { failed: string; hint: string }): Promise<void> {
  const code = await exitCode(command, args, 'inherit')
  if (code !== 0) throw new Failure(`${on.failed} (exit status ${String(code)})`, on.hint)
}

async function succeeds(command: string, args: string[]): Promise<boolean> {
  return (await exitCode(command, args, 'ignore')) === 0
}

async function exitCode(command: string, args: string[], output: 'inherit' | 'ignore'): Promise<number | string> {
  const stream = output === 'inherit' ? process.stderr : 'ignore'
  return await new Promise((done) => {
    const child = spawn(command, args, { stdio: ['ignore', stream, stream] })
    child.on('error', (error) => done(error.message))
    child.on('close', (code, signal) => done(code ?? signal ?? 'unknown'))
  })
}
