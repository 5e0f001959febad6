// One tokenizer against the reference on all sets: what `npm run oracle` and the quick test share.
import { readFileSync } from 'node:fs'

import type { Tokenizer } from '../../src/index'
import { compareSet, type SetResult } from './compare'
import { Reference } from './reference'
import { sets, type TokenizerFile } from './sets'

/** What to run. */
export interface OracleOptions {
  /** Where the reference is installed. */
  readonly packages: string
  /** The `tokenizer.json`. */
  readonly file: string
  /** Loads it with the tokenizer under test. */
  load(file: string): Promise<Tokenizer>
  /** Real text by language. */
  readonly corpora: ReadonlyMap<string, string>
  /** Takes a part of each set. */
  readonly quick: boolean
  /** The sets to run. Default: all. */
  readonly sets?: readonly string[] | undefined
  /** Told of each set that is done. */
  onSet?(result: SetResult): void
}

/** What came of one tokenizer. */
export interface OracleResult {
  /** Which of our engines ran. */
  readonly engine: Tokenizer['engine']
  readonly sets: readonly SetResult[]
  /** How many of the reference's answers were known from before. */
  readonly fromCache: number
}

/** The sets that also run with the template's tokens, in which spaces at a text's ends matter, and that are decoded. */
const withTemplate = new Set(['known', 'added tokens', 'whitespace', 'corpora'])
const decoded = new Set([
  'known',
  'whitespace',
  'apostrophes',
  'added tokens',
  'long runs',
  'mixes',
  'random characters',
  'corpora',
  'vocabulary',
  'code points',
])

/** Compares one tokenizer. */
export async function runOracle(options: OracleOptions): Promise<OracleResult> {
  const file = JSON.parse(readFileSync(options.file, 'utf8')) as TokenizerFile
  const tokenizer = await options.load(options.file)
  const reference = new Reference(options.packages, options.file)
  const results: SetResult[] = []
  try {
    for (const [name, make] of Object.entries(sets)) {
      if (options.sets !== undefined && !options.sets.includes(name)) continue
      const texts = make({ file, corpora: options.corpora, quick: options.quick })
      if (texts.length === 0) continue
      const cold = await options.load(options.file)
      const shared = {
        texts,
        cold,
        decode: decoded.has(name),
        everyNth: options.quick || texts.length < 20_000 ? 1 : 16,
        maxShown: 8,
      }
      for (const addSpecialTokens of withTemplate.has(name) ? [false, true] : [false]) {
        const set = addSpecialTokens ? `${name}, with template` : name
        const result = await compareSet(tokenizer, reference, { ...shared, set, addSpecialTokens })
        results.push(result)
        options.onSet?.(result)
        reference.save()
      }
    }
  } finally {
    reference.close()
  }
  return { engine: tokenizer.engine, sets: results, fromCache: reference.fromCache }
}
