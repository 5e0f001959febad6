// zig as a linker that knows old versions of glibc, from PyPI, in an environment of its own in the cache.
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'

import { cache, findPython } from './prepare.mjs'
import { fail, step } from './steps.mjs'

const packages = ['ziglang==0.17.1', 'cargo-zigbuild==0.24.0']

/** The environment variables with which `cargo zigbuild` works. */
export async function zigEnvironment() {
  const home = path.join(cache, `zig-${packages.map((name) => name.split('==')[1]).join('-')}`)
  const bin = path.join(home, 'bin')
  const stamp = path.join(home, '.complete')
  if (!existsSync(stamp)) {
    const found = await findPython()
    if (found === undefined) return fail('zig comes from PyPI, and no Python >= 3.11 with venv was found: install one')
    rmSync(home, { recursive: true, force: true })
    mkdirSync(cache, { recursive: true })
    await step('make an environment for zig', found, ['-m', 'venv', home])
    // Wheels only: building either from source needs what a developer's machine need not have.
    const pip = ['-m', 'pip', 'install', '--quiet', '--no-deps', '--only-binary', ':all:', ...packages]
    await step('install zig', path.join(bin, 'python'), pip)
    writeFileSync(stamp, '')
  }
  // cargo-zigbuild asks the `python3` that comes first for zig.
  return { PATH: `${bin}${path.delimiter}${process.env.PATH}` }
}
