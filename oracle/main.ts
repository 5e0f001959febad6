// The whole oracle run: every tokenizer, every set. Started by run.mjs.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import type { Tokenizer as TokenizerClass } from '../src/index'
import { quote, type SetResult } from './lib/compare'
import { availableCorpora } from './lib/corpora'
import { runOracle, type OracleResult } from './lib/oracle'
import { Unavailable, installPackages } from './lib/packages'
import { sets } from './lib/sets'
import { tokenizers } from './lib/tokenizers'

const here = path.dirname(fileURLToPath(import.meta.url))
const root = path.resolve(here, '..')
const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    sets: { type: 'string' },
    quick: { type: 'boolean', default: false },
    write: { type: 'boolean', default: false },
    findings: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
})
if (values.help) {
  console.log(`usage: npm run oracle [-- options]
  --only A,B      tokenizers: ${tokenizers.map(({ name }) => name).join(', ')}
  --sets A,B      sets: ${Object.keys(sets).join(', ')}
  --quick         a part of each set, without corpora that are fetched
  --write         writes what ran into the table of docs/exactness.md
  --findings F    writes every difference that is shown to a file too`)
  process.exit(0)
}

// The built package, as users have it; PILLION_PACKAGE names another build.
const entry = path.join(process.env['PILLION_PACKAGE'] ?? root, 'dist/index.cjs')
if (!existsSync(entry)) fail(`${entry} is not there: run \`npm run build\` first`)
const { Tokenizer } = createRequire(import.meta.url)(entry) as { Tokenizer: typeof TokenizerClass }

const only = list(
  values.only,
  tokenizers.map(({ name }) => name),
  '--only',
)
const chosenSets = list(values.sets, Object.keys(sets), '--sets')
const begin = Date.now()
const done: { name: string; result: OracleResult; minutes: number }[] = []
const missing: string[] = []
const lines: string[] = []

const packages = orFail(() => installPackages('oracle', here))
const corpora = values.quick ? { texts: new Map<string, string>(), missing: [] } : availableCorpora()
for (const line of corpora.missing) missing.push(`corpus ${line}`)

for (const source of tokenizers) {
  if (!only.includes(source.name)) continue
  let file: string
  try {
    file = source.file(packages)
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error
    missing.push(`tokenizer ${source.name}: ${error.message}`)
    continue
  }
  console.log(`\n${source.name} (${source.what})`)
  const start = Date.now()
  const result = await runOracle({
    packages,
    file,
    load: (path) => Tokenizer.fromFile(path),
    corpora: corpora.texts,
    quick: values.quick,
    sets: chosenSets,
    onSet: (set) => printSet(source.name, set),
  })
  const reason = result.engine.reason === undefined ? '' : `, because ${result.engine.reason}`
  console.log(`  engine: ${result.engine.name}${reason}; ${result.fromCache} answers of the reference from the cache`)
  done.push({ name: source.name, result, minutes: (Date.now() - start) / 60_000 })
}
if (done.length === 0) fail(`nothing was compared: ${missing.join('; ')}`)

const all = done.flatMap(({ result }) => result.sets)
const [texts, tokens, differing] = [sum(all, 'texts'), sum(all, 'tokens'), sum(all, 'differing')]
const minutes = ((Date.now() - begin) / 60_000).toFixed(1)
for (const line of missing) console.log(`missing: ${line}`)
console.log(
  `\n${done.length} tokenizers, ${count(texts)} texts, ${count(tokens)} tokens, ${minutes} min: ${count(differing)} differing`,
)
if (values.findings !== undefined) writeFileSync(values.findings, `${lines.join('\n')}\n`)
if (values.write) writeTable()
process.exit(differing === 0 ? 0 : 1)

function printSet(tokenizer: string, set: SetResult): void {
  const rate = `${count(set.texts).padStart(9)} texts ${count(set.tokens).padStart(11)} tokens ${set.seconds.toFixed(1).padStart(7)} s`
  console.log(`  ${set.set.padEnd(30)} ${rate}  ${count(set.differing)} differing`)
  if (set.differing > 0) lines.push(`\n## ${tokenizer}, ${set.set}: ${set.differing} of ${set.texts}`)
  for (const { what, text, expected, actual } of set.differences) {
    const block = [`- ${what}: ${quote(text)}`, `    reference ${expected}`, `    ours      ${actual}`]
    lines.push(...block)
    console.log(block.map((line) => `    ${line}`).join('\n'))
  }
}

/** Replaces what stands between the two marks of docs/exactness.md; tokenizers that did not run keep what stood there. */
function writeTable(): void {
  const file = path.join(root, 'docs/exactness.md')
  const [before, after] = readFileSync(file, 'utf8').split(/<!-- table -->[\s\S]*<!-- \/table -->/)
  if (before === undefined || after === undefined)
    fail('docs/exactness.md has lost its marks <!-- table --> and <!-- /table -->')
  const columns = readColumns(readFileSync(file, 'utf8'))
  for (const { name, result, minutes } of done) {
    const cells = result.sets.map((set): [string, string] => [
      set.set,
      `${count(set.differing)} of ${count(set.texts)}`,
    ])
    const total = (field: 'texts' | 'tokens'): string => count(sum(result.sets, field))
    const about = {
      engine: result.engine.name,
      texts: total('texts'),
      tokens: total('tokens'),
      minutes: minutes.toFixed(1),
    }
    columns.set(name, new Map([...Object.entries(about), ...cells]))
  }
  const known = tokenizers.map(({ name }) => name).filter((name) => columns.has(name))
  const names = [...new Set(known.flatMap((name) => [...(columns.get(name)?.keys() ?? [])]))]
  const rows = names.map((name) => [name, ...known.map((column) => columns.get(column)?.get(name) ?? '-')])
  const header = ['set', ...known]
  const table = [header, header.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')
  const over = (row: string): number =>
    known.reduce((total, name) => total + Number(columns.get(name)?.get(row)?.replaceAll(',', '') ?? 0), 0)
  const wrong = known.flatMap((name) =>
    [...(columns.get(name)?.values() ?? [])].filter((cell) => /^[1-9].* of /.test(cell)),
  )
  const machine = `${os.cpus().length} cores, ${os.platform()} ${os.arch()}, Node ${process.versions.node}`
  const said = `${known.length} tokenizers, ${count(over('texts'))} texts and ${count(over('tokens'))} tokens in ${over('minutes').toFixed(0)} minutes (${machine}); differences in ${wrong.length} of the sets.`
  const without = missing.map((line) => `\nNot compared in this run: ${line}.`).join('')
  writeFileSync(file, `${before}<!-- table -->\n\n${said}${without}\n\n${table}\n\n<!-- /table -->${after}`)
}

/** The table that stands in the document, by tokenizer and row. */
function readColumns(text: string): Map<string, Map<string, string>> {
  const lines = text.split('\n').filter((line) => line.startsWith('| '))
  const cells = lines.map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  )
  const at = cells.findIndex(([first, second]) => first === 'set' && second !== 'texts')
  const [header = [], , ...rows] = at < 0 ? [] : cells.slice(at)
  return new Map(
    header
      .slice(1)
      .map((name, i) => [
        name,
        new Map(
          rows.flatMap((row): [string, string][] => (row[i + 1] === '-' ? [] : [[row[0] ?? '', row[i + 1] ?? '']])),
        ),
      ]),
  )
}

function list(given: string | undefined, known: readonly string[], option: string): readonly string[] {
  if (given === undefined) return known
  const names = given.split(',')
  const unknown = names.filter((name) => !known.includes(name))
  if (unknown.length > 0) fail(`${option}: ${unknown.join(', ')} is not among ${known.join(', ')}`)
  return names
}

function orFail<T>(work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (error instanceof Unavailable) fail(error.message)
    throw error
  }
}

function fail(reason: string): never {
  console.error(`error: ${reason}`)
  process.exit(2)
}

function sum(results: readonly SetResult[], field: 'texts' | 'tokens' | 'differing'): number {
  return results.reduce((total, set) => total + set[field], 0)
}

function count(n: number): string {
  return n.toLocaleString('en-US')
}
