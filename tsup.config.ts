import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { defineConfig } from 'tsup'

const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string }

// CommonJS is built once, and ESM re-exports it: two builds would be two copies of every class over one native state.
export default defineConfig({
  entry: { index: 'src/index.ts', cli: 'src/cli/main.ts', 'doctor-trial': 'src/cli/doctor-trial.ts' },
  format: ['cjs'],
  outExtension: () => ({ js: '.cjs' }),
  target: 'node20',
  platform: 'node',
  outDir: 'dist',
  sourcemap: true,
  clean: true,
  splitting: false,
  keepNames: true,
  define: { __VERSION__: JSON.stringify(version) },
  onSuccess: () => {
    writeEsm()
    return Promise.resolve()
  },
})

// Node finds the names of a CommonJS module by reading its source, which a bundler may write in ways that it does not know.
function writeEsm(): void {
  const built = createRequire(resolve('tsup.config.ts'))(resolve('dist/index.cjs')) as object
  const names = Object.keys(built).sort()
  writeFileSync(
    'dist/index.mjs',
    `import pillion from './index.cjs'\n\nexport const { ${names.join(', ')} } = pillion\n`,
  )
  writeFileSync('dist/index.d.mts', "export * from '../index.js'\n")
}
