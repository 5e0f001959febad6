// Publishes the platform packages and then the main one, all of one version. Run by the release workflow with the folder of built artifacts.
//
// The main package goes last, so that nobody can install it before its platforms are there.
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'

import { checkPortable } from './lib/elf.mjs'
import { fail, root, step } from './lib/steps.mjs'
import { bridgeFile, platforms as known } from './platforms.mjs'

const [artifacts] = process.argv.slice(2)
if (!artifacts || !existsSync(artifacts)) fail('usage: node scripts/publish.mjs ARTIFACTS')

const main = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'))
const platforms = readdirSync(artifacts).map((name) => name.replace(/^native-/, ''))
const optionalDependencies = {}
for (const triple of platforms) {
  const folder = path.join(root, 'npm', triple)
  cpSync(path.join(artifacts, `native-${triple}`), folder, { recursive: true })
  const { name, version } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'))
  if (version !== main.version) fail(`${name} has version ${version}, the main package ${main.version}`)
  optionalDependencies[name] = version
  const platform = Object.values(known).find((one) => one.name === triple)
  if (platform?.os !== 'linux') continue
  for (const file of [`pillion.${triple}.node`, bridgeFile(platform)]) checkPortable(path.join(folder, file), platform)
}
const expected = main.napi.targets.length
if (platforms.length !== expected)
  fail(`${platforms.length} of ${expected} platforms were built: ${platforms.join(', ')}`)

for (const triple of platforms) {
  await step(`publish ${triple}`, 'npm', [
    'publish',
    '--provenance',
    '--access',
    'public',
    path.join(root, 'npm', triple),
  ])
}
writeFileSync(path.join(root, 'package.json'), `${JSON.stringify({ ...main, optionalDependencies }, null, 2)}\n`)
await step('publish pillion', 'npm', ['publish', '--provenance', '--access', 'public'])
