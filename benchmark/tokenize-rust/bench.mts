// Tokenizing in Rust beside the engines there, on one thread: `src/main.rs` says what is timed.
//
//   npm run bench -- tokenize-rust [--vocabularies llama3,qwen3] [--text English,code] [--rounds 5]
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { groups } from '../tokenize/inputs'
import { range, ratios, table } from '../tokenize/table'
import { installPackages } from '../../oracle/lib/packages'
import { tokenizers } from '../../oracle/lib/tokenizers'

const here = path.dirname(fileURLToPath(import.meta.url))
const { values } = parseArgs({
  options: {
    vocabularies: { type: 'string', default: 'llama3,qwen3,gptoss,deepseek_v3,gpt2-like' },
    text: { type: 'string' },
    rounds: { type: 'string', default: '5' },
  },
})

type Line =
  | { readonly engine: string; readonly differing: number; readonly of: number }
  | { readonly engine: string; readonly round: number; readonly novel: number; readonly warm: number }

execFileSync('cargo', ['build', '--release'], { cwd: here, stdio: 'inherit' })
const packages = installPackages('oracle', path.resolve(here, '../../oracle'))
const texts = groups(values.text?.split(','))
for (const line of texts.missing) console.error(`left out: ${line}`)
const folder = mkdtempSync(path.join(os.tmpdir(), 'pillion-bench-'))
const rows: string[][] = []
try {
  for (const { name, documents } of texts.found) {
    const text = path.join(folder, `${name}.txt`)
    writeFileSync(text, documents.join(''))
    for (const vocabulary of values.vocabularies.split(',')) {
      const source = tokenizers.find((one) => one.name === vocabulary)
      if (source === undefined) throw new Error(`--vocabularies: no tokenizer is called ${vocabulary}`)
      console.error(`${vocabulary}, ${name}`)
      rows.push(...measure(vocabulary, name, source.file(packages), text))
    }
  }
} finally {
  rmSync(folder, { recursive: true })
}
const [cpu] = os.cpus()
console.log(`# Tokenizing in Rust, one thread, documents of 2,000 characters

${os.cpus().length} cores (${cpu?.model.trim() ?? 'unknown'}), load ${os.loadavg()[0]?.toFixed(1) ?? '?'} at the end; medians of ${values.rounds} rounds, least and greatest in brackets; time of the thread on the processor.

${table(['vocabulary', 'text', 'engine', 'differing ids', 'novel MB/s', 'pillion is x faster', 'warm MB/s', 'pillion is x faster'], rows)}`)

function measure(vocabulary: string, group: string, tokenizer: string, text: string): string[][] {
  const target = process.env['CARGO_TARGET_DIR'] ?? path.join(here, 'target')
  const out = execFileSync(path.join(target, 'release/tokenize-rust'), [tokenizer, text, values.rounds], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const lines = out
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line)
  const rounds = (engine: string, what: 'novel' | 'warm'): number[] =>
    lines.flatMap((line) => (line.engine === engine && 'round' in line ? [line[what]] : []))
  const engines = [...new Set(lines.flatMap((line) => ('round' in line ? [line.engine] : [])))].sort()
  return engines.map((engine) => {
    const checked = lines.find((line) => line.engine === engine && 'differing' in line)
    const cells = (['novel', 'warm'] as const).flatMap((what) => [
      range(rounds(engine, what), 1),
      range(ratios(rounds('pillion', what), rounds(engine, what))),
    ])
    const differing = checked !== undefined && 'differing' in checked ? `${checked.differing} of ${checked.of}` : '-'
    return [vocabulary, group, engine, differing, ...cells]
  })
}
