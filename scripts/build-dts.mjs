// Rolls the public types into index.d.ts and writes the ESM files, which re-export the CommonJS build. `--check` only says whether the
// committed index.d.ts is what the sources give.
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { format, resolveConfig } from 'prettier'

const check = process.argv.includes('--check')
const fresh = await rollTypes()

if (check) {
  const committed = readFileSync('index.d.ts', 'utf8')
  if (committed !== fresh) {
    console.error('error: index.d.ts is not what src/ gives\nhint: run npm run build:ts, review the change and commit it')
    process.exit(1)
  }
} else {
  writeFileSync('index.d.ts', fresh)
  writeEsm()
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

// Node finds the names of a CommonJS module by reading its source, which a bundler may write in ways that it does not know.
function writeEsm() {
  mkdirSync('dist', { recursive: true })
  const names = Object.keys(createRequire(import.meta.url)(resolve('dist/index.cjs'))).sort()
  const lines = ["import pillion from './index.cjs'", '', `export const { ${names.join(', ')} } = pillion`, '']
  writeFileSync('dist/index.mjs', lines.join('\n'))
  writeFileSync('dist/index.d.mts', "export * from '../index.js'\n")
}
