// Builds the addon and the bridge, and puts both where the loader looks first: npm/<platform>/. `--release` for what is published,
// `--target <triple>` for another platform.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { bridgeFile, hostTarget, platforms, writePlatformPackage } from './platforms.mjs'

const { values } = parseArgs({ options: { release: { type: 'boolean', default: false }, target: { type: 'string' } } })
const target = values.target ?? hostTarget()
const platform = platforms[target]
if (platform === undefined) {
  console.error(`error: no platform package for ${target}\nhint: known are ${Object.keys(platforms).join(', ')}`)
  process.exit(1)
}
const folder = join('npm', platform.name)
mkdirSync(folder, { recursive: true })

const cargo = [...(values.release ? ['--release'] : []), ...(values.target === undefined ? [] : ['--target', target])]
const napi = ['build', '--platform', '--no-js', '--manifest-path', 'crates/pillion-node/Cargo.toml', '--package-json-path', 'package.json']
run('npx', ['--no-install', 'napi', ...napi, '--dts', join('..', '..', 'src', 'binding.d.ts'), '--output-dir', folder, ...cargo])
run('cargo', ['build', '--quiet', '--package', 'pillion-bridge', ...cargo])

const bridge = bridgeFile(platform)
const profile = values.release ? 'release' : 'debug'
const targetFolder = process.env.CARGO_TARGET_DIR ?? 'target'
copyFileSync(join(targetFolder, ...(values.target === undefined ? [] : [target]), profile, bridge), join(folder, bridge))
writePlatformPackage(folder, platform)
console.error(`built ${folder}`)

function run(command, args) {
  execFileSync(command, args, { stdio: 'inherit', shell: process.platform === 'win32' })
}
