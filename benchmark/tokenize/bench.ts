// Tokenizing beside the packages that people use now. One process per package, taking turns; ids are compared with the reference's in the same run.
//
//   npm run bench -- tokenize [--only speed,threads,short,hard,decode,memory] [--vocabularies llama3,qwen3] [--text English,code] [--packages pillion,tokenizers]
//       [--rounds 5] [--quick] [--clock wall|cpu]
import os from 'node:os'
import { parseArgs } from 'node:util'

import { Unavailable } from '../../oracle/lib/packages'
import { decode, decodeTable } from './decode'
import { hard, hardTable } from './hard'
import { groups, places, vocabularies, type Group } from './inputs'
import { memory, memoryTable } from './memory'
import { short, shortTable } from './short'
import { speed, speedTable, threads, threadsTable, type SpeedOptions } from './speed'
import type { Vocabulary } from './peer'

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    vocabularies: { type: 'string' },
    text: { type: 'string' },
    packages: { type: 'string' },
    rounds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    clock: { type: 'string', default: 'wall' },
  },
})
const parts = ['speed', 'threads', 'short', 'hard', 'decode', 'memory'] as const
const only = values.only?.split(',') ?? parts
const unknown = only.filter((name) => !(parts as readonly string[]).includes(name))
if (unknown.length > 0) stop(`--only: ${unknown.join(', ')} is not among ${parts.join(', ')}`)
const rounds = Number(values.rounds ?? (values.quick ? 2 : 5))
const quickVocabularies = ['llama3', 'qwen3', 'o200k (gpt4o)']

try {
  await main()
} catch (error) {
  if (!(error instanceof Unavailable)) throw error
  stop(error.message)
}

async function main(): Promise<void> {
  const where = places(values.clock === 'cpu' ? 'cpu' : 'wall')
  const files = vocabularies(where.packages)
  const texts = groups(values.text?.split(','))
  for (const line of [...files.missing, ...texts.missing]) console.error(`left out: ${line}`)
  const wanted =
    values.vocabularies?.split(',') ?? (values.quick ? quickVocabularies : files.found.map(({ name }) => name))
  const packages = values.packages?.split(',')
  const chosen = files.found
    .filter(({ name }) => wanted.some((one) => name === one || name.startsWith(`${one} `)))
    .map((vocabulary) => ({
      ...vocabulary,
      packages: vocabulary.packages.filter((name) => packages?.includes(name) ?? true),
    }))
  const english = texts.found[0]
  if (chosen.length === 0 || english === undefined)
    stop(`nothing to measure: vocabularies are ${files.found.map(({ name }) => name).join(', ')}`)

  console.log(
    `# Tokenizing\n\n${machine()}; medians of ${rounds} rounds, least and greatest in brackets; ${where.clock === 'cpu' ? 'time of the processor, the machine being busy' : 'time that passed'}.`,
  )
  for (const { name, megabytes, what } of texts.found)
    console.log(`- ${name}: ${megabytes.toFixed(1)} MB (${what}), no line twice`)
  const options: SpeedOptions = { rounds, warmUp: 0.6, maxSeconds: values.quick ? 1 : 3 }
  if (only.includes('speed')) await runSpeed(chosen, texts.found, options)
  if (only.includes('threads')) await runThreads(chosen, texts.found)
  if (only.includes('short')) await each('Short texts', chosen, (one) => short(one, english, where, rounds), shortTable)
  if (only.includes('hard')) {
    const some = chosen.filter(({ name }) => ['llama3', 'o200k (gpt4o)', 'llama2', 'minilm'].includes(name))
    await each(
      'Hard inputs',
      some.length > 0 ? some : chosen.slice(0, 1),
      (one) => hard(one, where, { limitMs: values.quick ? 10_000 : 60_000, repeats: 1, quick: values.quick }),
      hardTable,
    )
  }
  if (only.includes('decode'))
    await each('Detokenizing', chosen, (one) => decode(one, english, where, rounds), decodeTable)
  if (only.includes('memory'))
    await each('Memory', chosen.slice(0, 2), (one) => memory(one, where, values.quick ? 100 : 1000), memoryTable)

  async function runSpeed(
    list: readonly Vocabulary[],
    all: readonly Group[],
    speedOptions: SpeedOptions,
  ): Promise<void> {
    const rows: string[][] = []
    for (const group of all) {
      for (const vocabulary of list) {
        console.error(`speed: ${vocabulary.name}, ${group.name}`)
        rows.push(...(await speed(vocabulary, group, where, speedOptions)))
      }
    }
    console.log(`\n## Documents of 2,000 characters, one call each\n\n${speedTable(rows)}`)
    console.log(
      '\nNovel: unseen text after 0.6 MB of other text, in a new process every round. Warm: the same text again. Ratios are of the same round.',
    )
  }

  async function runThreads(list: readonly Vocabulary[], all: readonly Group[]): Promise<void> {
    // All of the text in each round: a batch is long enough that starting threads does not show.
    await each(
      '`encodeBatch` on one core and on all',
      list,
      async (one) => {
        const rows: string[][] = []
        for (const group of all) rows.push(await threads(one, group, where, options))
        return rows
      },
      threadsTable,
    )
  }
}

async function each(
  title: string,
  list: readonly Vocabulary[],
  work: (one: Vocabulary) => Promise<string[][]>,
  print: (rows: readonly string[][]) => string,
): Promise<void> {
  const rows: string[][] = []
  for (const vocabulary of list) {
    console.error(`${title}: ${vocabulary.name}`)
    rows.push(...(await work(vocabulary)))
  }
  console.log(`\n## ${title}\n\n${print(rows)}`)
}

function machine(): string {
  const [cpu] = os.cpus()
  return `${os.cpus().length} cores (${cpu?.model.trim() ?? 'unknown'}), ${os.platform()} ${os.arch()}, Node ${process.versions.node}, load ${os.loadavg()[0]?.toFixed(1) ?? '?'} at the start`
}

function stop(reason: string): never {
  console.error(`error: ${reason}`)
  process.exit(2)
}
