// The platforms that have a package of their own, each with the addon and the bridge.
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export const platforms = {
  'x86_64-unknown-linux-gnu': { name: 'linux-x64-gnu', os: 'linux', cpu: 'x64', libc: 'glibc' },
  'aarch64-unknown-linux-gnu': { name: 'linux-arm64-gnu', os: 'linux', cpu: 'arm64', libc: 'glibc' },
  'x86_64-unknown-linux-musl': { name: 'linux-x64-musl', os: 'linux', cpu: 'x64', libc: 'musl' },
  'aarch64-unknown-linux-musl': { name: 'linux-arm64-musl', os: 'linux', cpu: 'arm64', libc: 'musl' },
  'x86_64-apple-darwin': { name: 'darwin-x64', os: 'darwin', cpu: 'x64' },
  'aarch64-apple-darwin': { name: 'darwin-arm64', os: 'darwin', cpu: 'arm64' },
  'x86_64-pc-windows-msvc': { name: 'win32-x64-msvc', os: 'win32', cpu: 'x64' },
}

/** The triple that cargo builds for here. */
export function hostTarget() {
  const about = execFileSync('rustc', ['-vV'], { encoding: 'utf8' })
  return /^host: (.+)$/m.exec(about)?.[1]
}

/** What cargo calls the bridge on a platform. */
export function bridgeFile({ os }) {
  return { linux: 'libpillion_bridge.so', darwin: 'libpillion_bridge.dylib', win32: 'pillion_bridge.dll' }[os]
}

/** Writes the manifest of a platform package into its folder. */
export function writePlatformPackage(folder, platform) {
  const main = JSON.parse(readFileSync('package.json', 'utf8'))
  const addon = `pillion.${platform.name}.node`
  const manifest = {
    name: `pillion-${platform.name}`,
    version: main.version,
    description: `The native part of pillion for ${platform.name}`,
    license: main.license,
    repository: main.repository,
    engines: main.engines,
    os: [platform.os],
    cpu: [platform.cpu],
    ...(platform.libc === undefined ? {} : { libc: [platform.libc] }),
    main: addon,
    files: [addon, bridgeFile(platform), 'LICENSE-MIT', 'LICENSE-APACHE'],
  }
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
  const readme = `# pillion-${platform.name}\n\nThe native part of [pillion](../../README.md) for ${platform.name}. Install \`pillion\`, which brings it.\n`
  writeFileSync(join(folder, 'README.md'), readme)
  for (const licence of ['LICENSE-MIT', 'LICENSE-APACHE']) {
    if (existsSync(licence)) copyFileSync(licence, join(folder, licence))
  }
}
