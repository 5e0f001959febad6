// Rolls the public types into index.d.ts. `--check` only says whether the committed one is what the sources give.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { format, resolveConfig } from 'prettier'

const check = process.argv.includes('--check')
const fresh = await rollTypes()

if (check) {
  const committed = readFileSync('index.d.ts', 'utf8')
  if (committed !== fresh) {
    console.error(
      'error: index.d.ts is not what src/ gives\nhint: run npm run build:ts, review the change and commit it',
    )
    process.exit(1)
  }
} else {
  writeFileSync('index.d.ts', fresh)
}

async function rollTypes() {
  const out = mkdtempSync(join(tmpdir(), 'pillion-dts-'))
  try {
    const tsup = createRequire(import.meta.url).resolve('tsup/dist/cli-default.js')
    const args = ['src/index.ts', '--no-config', '--dts-only', '--format', 'cjs', '--out-dir', out, '--silent']
    execFileSync(process.execPath, [tsup, ...args], { stdio: 'inherit' })
    const rolled = readFileSync(join(out, 'index.d.ts'), 'utf8').replace(/^\/\/\/ <reference .*\n/gm, '')
    const header = '// Made from src/ by `npm run build:ts`; do not edit.\n\n/// <reference types="node" />\n\n'
    return await format(header + rolled, { ...(await resolveConfig(resolve('index.d.ts'))), parser: 'typescript' })
  } finally {
    rmSync(out, { recursive: true, force: true })
  }
}
