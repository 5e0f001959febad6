// Builds the addon and the bridge, and puts both where the loader looks first: npm/<platform>/. `--release` for what is published,
// `--target <triple>` for another platform, `--zig` to link with zig (cargo-zigbuild) against a glibc old enough for every supported system.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { checkPortable, glibcFloor } from './lib/elf.mjs'
import { zigEnvironment } from './lib/zig.mjs'
import { bridgeFile, hostTarget, platforms, writePlatformPackage } from './platforms.mjs'

const { values } = parseArgs({
  options: {
    release: { type: 'boolean', default: false },
    zig: { type: 'boolean', default: false },
    target: { type: 'string' },
  },
})
const target = values.target ?? hostTarget()
const platform = platforms[target]
if (platform === undefined) {
  console.error(`error: no platform package for ${target}\nhint: known are ${Object.keys(platforms).join(', ')}`)
  process.exit(1)
}
const folder = join('npm', platform.name)
mkdirSync(folder, { recursive: true })

const profile = values.release ? 'release' : 'debug'
const addon = join(folder, `pillion.${platform.name}.node`)
const bridge = bridgeFile(platform)
if (values.zig) await buildWithZig()
else build()
writePlatformPackage(folder, platform)
console.error(`built ${folder}`)

function build() {
  const cargo = [...(values.release ? ['--release'] : []), ...(values.target === undefined ? [] : ['--target', target])]
  const napi = [
    'build',
    '--platform',
    '--no-js',
    '--manifest-path',
    'crates/pillion-node/Cargo.toml',
    '--package-json-path',
    'package.json',
  ]
  run('npx', [
    '--no-install',
    'napi',
    ...napi,
    '--dts',
    join('..', '..', 'src', 'binding.d.ts'),
    '--output-dir',
    folder,
    ...cargo,
  ])
  run('cargo', ['build', '--quiet', '--package', 'pillion-bridge', ...cargo])
  take(values.target === undefined ? [profile] : [target, profile], bridge, join(folder, bridge))
}

async function buildWithZig() {
  const versioned = platform.libc === 'glibc' ? `${target}.${glibcFloor}` : target
  const cargo = [...(values.release ? ['--release'] : []), '--target', versioned]
  const env = { ...process.env, ...(await zigEnvironment()) }
  run('cargo', ['zigbuild', '--quiet', '--package', 'pillion-node', '--package', 'pillion-bridge', ...cargo], env)
  take([target, profile], bridge.replace('bridge', 'node'), addon)
  take([target, profile], bridge, join(folder, bridge))
  for (const file of [addon, join(folder, bridge)]) checkPortable(file, platform)
}

function take(from, file, to) {
  copyFileSync(join(process.env.CARGO_TARGET_DIR ?? 'target', ...from, file), to)
}

function run(command, args, env = process.env) {
  execFileSync(command, args, { env, stdio: 'inherit', shell: process.platform === 'win32' })
}
