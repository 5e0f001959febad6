// The quick slice of the oracle: real tokenizer files against npm `tokenizers`. `npm run oracle` runs all of it.
import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { runOracle, type OracleResult } from '../oracle/lib/oracle'
import { Unavailable, installPackages } from '../oracle/lib/packages'
import { tokenizers } from '../oracle/lib/tokenizers'
import { Tokenizer } from '../src/index'
import { tempFolder } from './helpers'

const timeout = 300_000
const packages = orReason(() =>
  installPackages('oracle', resolve(import.meta.dirname, '../oracle'), { optional: false }),
)
if (packages.reason !== undefined) console.warn(`skipped: ${packages.reason}`)

async function compare(file: string, under = file, sets?: readonly string[]): Promise<OracleResult> {
  const load = (): Promise<Tokenizer> => Tokenizer.fromFile(under)
  return await runOracle({ packages: packages.value!, file, load, corpora: new Map(), quick: true, sets })
}

describe.skipIf(packages.value === undefined)('ids, offsets and decoding equal the reference', () => {
  test.each(['llama3', 'qwen3', 'smollm2'])(
    '%s',
    async (name) => {
      const source = tokenizers.find((one) => one.name === name)!
      const file = orReason(() => source.file(packages.value!))
      if (file.value === undefined) {
        console.warn(`skipped: ${file.reason ?? ''}`)
        return
      }
      const { sets } = await compare(file.value)
      expect(sets.flatMap(({ set, differences }) => differences.map((difference) => ({ set, ...difference })))).toEqual(
        [],
      )
      expect(sets.map(({ differing }) => differing)).toEqual(sets.map(() => 0))
      // A slice that lost its texts would pass in silence.
      expect(sets.length).toBeGreaterThanOrEqual(15)
      expect(sets.reduce((sum, { texts }) => sum + texts, 0)).toBeGreaterThan(60_000)
    },
    timeout,
  )

  test(
    'a wrong tokenizer is found out, with the smallest text that shows it',
    async () => {
      const file = tokenizers.find((one) => one.name === 'qwen3')!.file(packages.value!)
      const changed = JSON.parse(readFileSync(file, 'utf8')) as { model: { vocab: Record<string, number> } }
      const { vocab } = changed.model
      const [at, on] = [vocab['Ġat']!, vocab['Ġon']!]
      Object.assign(vocab, { Ġat: on, Ġon: at })
      const under = join(tempFolder(), 'tokenizer.json')
      writeFileSync(under, JSON.stringify(changed))
      const { sets } = await compare(file, under, ['known', 'vocabulary'])
      const shown = sets.flatMap(({ differences }) => differences)
      expect(sets.reduce((sum, { differing }) => sum + differing, 0)).toBeGreaterThan(0)
      for (const { text } of shown.filter(({ what }) => what === 'ids and offsets'))
        expect([' at', ' on']).toContain(text)
      expect(shown.length).toBeGreaterThan(0)
    },
    timeout,
  )
})

function orReason<T>(work: () => T): { value?: T; reason?: string } {
  try {
    return { value: work() }
  } catch (error) {
    if (error instanceof Unavailable) return { reason: error.message }
    throw error
  }
}
