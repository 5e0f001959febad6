// `npm run oracle [-- --only llama3,qwen3 --sets mixes --quick --write]`: our tokenizer against npm `tokenizers`, see docs/exactness.md.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const main = path.join(path.dirname(fileURLToPath(import.meta.url)), 'main.ts')
const { status } = spawnSync(process.execPath, ['--import', 'tsx', main, ...process.argv.slice(2)], {
  stdio: 'inherit',
})
process.exit(status ?? 1)
