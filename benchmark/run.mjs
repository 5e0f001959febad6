// `npm run bench -- NAME [options]`: runs benchmark/NAME/bench.mts. Without a name it lists them.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const here = path.dirname(fileURLToPath(import.meta.url))
const [name, ...rest] = process.argv.slice(2)
const file =
  name && ['bench.mts', 'bench.ts'].map((base) => path.join(here, name, base)).find((base) => existsSync(base))
if (!file) {
  const names = readdirSync(here, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  console.error(`usage: npm run bench -- NAME\nnames: ${names.map((entry) => entry.name).join(', ')}`)
  process.exit(2)
}
const { status } = spawnSync('npx', ['tsx', file, ...rest], { stdio: 'inherit', shell: process.platform === 'win32' })
process.exit(status ?? 1)
