// Megabytes a second on documents of 2,000 characters, ids in JS: novel text, warm text, the first encode, one against two threads.
import { availableParallelism } from 'node:os'

import { bytesOf, type Group } from './inputs'
import { Peer, type PackageName, type Places, type Timed, type Vocabulary } from './peer'
import { median, range, ratios, table } from './table'

/** How much to do. */
export interface SpeedOptions {
  readonly rounds: number
  /** Megabytes of text that are encoded before novel text is. */
  readonly warmUp: number
  /** Seconds of work that a slow package gets per round; it then has a beginning of the round's text. */
  readonly maxSeconds: number
}

interface Series {
  readonly novel: number[]
  readonly warm: number[]
  readonly first: number[]
  readonly load: number[]
}

/** Packages whose speed is known to be so low that they get less text, in megabytes a second, to plan with. */
const planned: Readonly<Partial<Record<PackageName, number>>> = {
  '@huggingface/tokenizers': 0.25,
  tokenizers: 1,
  kitoken: 1,
  tiktoken: 1,
  'gpt-tokenizer': 1,
  'ai-tokenizer': 1,
  'tiktoken-node': 1,
}

/** One vocabulary on one group: every round each package gets a new process and text that it has not seen. */
export async function speed(
  vocabulary: Vocabulary,
  group: Group,
  where: Places,
  options: SpeedOptions,
): Promise<string[][]> {
  const series = new Map<PackageName, Series>(
    vocabulary.packages.map((name) => [name, { novel: [], warm: [], first: [], load: [] }]),
  )
  const differing = new Set<PackageName>()
  const failed = new Map<PackageName, string>()
  const { head, rounds } = split(group, options)
  for (const [number, texts] of rounds.entries()) {
    const order = vocabulary.packages
      .map((_, i) => vocabulary.packages[(i + number) % vocabulary.packages.length]!)
      .filter((name) => !failed.has(name))
    // As many documents as the slowest package does are compared.
    const checked = Math.min(...order.map((name) => share(texts, name, options.maxSeconds).length))
    const digests = new Map<PackageName, string>()
    for (const name of order) {
      try {
        digests.set(
          name,
          await round(
            name,
            vocabulary,
            where,
            head,
            share(texts, name, options.maxSeconds),
            checked,
            series.get(name)!,
          ),
        )
      } catch (error) {
        failed.set(name, String(error))
      }
    }
    const expected = digests.get('tokenizers')
    for (const [name, digest] of digests) if (digest !== expected) differing.add(name)
  }
  return rows(vocabulary, group, series, differing, failed)
}

/** Times one package; returns the digest of the ids, which was the same in all passes. */
async function round(
  name: PackageName,
  vocabulary: Vocabulary,
  where: Places,
  head: readonly string[],
  texts: readonly string[],
  checked: number,
  into: Series,
): Promise<string> {
  const peer = await Peer.start(name, vocabulary, where)
  try {
    into.load.push(peer.loadMs)
    into.first.push((await peer.ask('first', { text: head[0] ?? '' })).ms)
    await peer.ask('each', { texts: head })
    const megabytes = bytesOf(texts)
    const novel = await peer.ask('each', { texts, checked })
    const warm = await peer.ask('each', { texts, passes: 2, checked })
    const after = await peer.ask('each', { texts: texts.slice(0, checked) })
    if (novel.digest !== warm.digest || novel.digest !== after.digest)
      throw new Error(`${name} gives other ids the second time`)
    into.novel.push(rate(megabytes, novel))
    into.warm.push(rate(megabytes, warm))
    return novel.digest
  } finally {
    peer.stop()
  }
}

function rate(megabytes: number, { times }: Timed): number {
  return megabytes / (median(times) / 1000)
}

/** Warm-up text, and the text of each round: all of the rest, which begins elsewhere every time, since a slow package gets no more than the beginning. */
function split(group: Group, { rounds, warmUp }: SpeedOptions): { head: string[]; rounds: string[][] } {
  const head: string[] = []
  let at = 0
  while (bytesOf(head) < warmUp && at < group.documents.length) head.push(group.documents[at++] ?? '')
  const rest = group.documents.slice(at)
  const begin = (round: number): number => Math.floor((rest.length / rounds) * round)
  return {
    head,
    rounds: Array.from({ length: rounds }, (_, i) => [...rest.slice(begin(i)), ...rest.slice(0, begin(i))]),
  }
}

function share(texts: readonly string[], name: PackageName, maxSeconds: number): readonly string[] {
  const megabytes = (planned[name] ?? Number.POSITIVE_INFINITY) * maxSeconds
  const part = Math.ceil((texts.length * megabytes) / bytesOf(texts))
  return texts.slice(0, Math.max(part, 40))
}

function rows(
  vocabulary: Vocabulary,
  group: Group,
  series: ReadonlyMap<PackageName, Series>,
  differing: ReadonlySet<PackageName>,
  failed: ReadonlyMap<PackageName, string>,
): string[][] {
  const ours = series.get('pillion')!
  return [...series].map(([name, own]) => {
    const why = failed.get(name)
    if (why !== undefined)
      return [
        vocabulary.name,
        group.name,
        name,
        `failed: ${why.split('\n')[0]?.slice(0, 60) ?? ''}`,
        '',
        '',
        '',
        '',
        '',
      ]
    const ids = name === 'tokenizers' ? 'reference' : differing.has(name) ? '**differ**' : 'equal'
    const over = (of: (s: Series) => number[]): string =>
      name === 'pillion' ? '1' : range(ratios(of(ours), of(own)), 1)
    return [
      vocabulary.name,
      group.name,
      name,
      ids,
      range(own.novel, 1),
      over((s) => s.novel),
      range(own.warm, 1),
      over((s) => s.warm),
      `${range(own.first, 1)} / ${median(own.load).toFixed(0)}`,
    ]
  })
}

/** The table over all vocabularies and groups. */
export function speedTable(all: readonly string[][]): string {
  const header = [
    'vocabulary',
    'text',
    'package',
    'ids',
    'novel MB/s',
    'pillion is x faster',
    'warm MB/s',
    'pillion is x faster',
    'first encode / load ms',
  ]
  return table(header, all)
}

/** `encodeBatch` of ours on one core and on all, novel text, taking turns. The text before it is as much for each core as one gets elsewhere. */
export async function threads(
  vocabulary: Vocabulary,
  group: Group,
  where: Places,
  options: SpeedOptions,
): Promise<string[]> {
  const [one, two, npm]: [number[], number[], number[]] = [[], [], []]
  const { head, rounds } = split(group, { ...options, warmUp: options.warmUp * availableParallelism() })
  const batch = async (name: PackageName, texts: readonly string[], cpu?: number): Promise<number> => {
    const peer = await Peer.start(name, vocabulary, where, cpu)
    try {
      await peer.ask('batch', { texts: head })
      return rate(bytesOf(texts), await peer.ask('batch', { texts }))
    } finally {
      peer.stop()
    }
  }
  for (const [number, texts] of rounds.entries()) {
    const order = number % 2 === 0 ? [0, undefined] : [undefined, 0]
    for (const cpu of order) (cpu === 0 ? one : two).push(await batch('pillion', texts, cpu))
    npm.push(await batch('tokenizers', share(texts, 'tokenizers', options.maxSeconds)))
  }
  return [
    vocabulary.name,
    group.name,
    range(one, 1),
    range(two, 1),
    range(ratios(two, one)),
    range(npm, 1),
    range(ratios(two, npm), 1),
  ]
}

/** The table of `threads`. */
export function threadsTable(all: readonly string[][]): string {
  return table(
    [
      'vocabulary',
      'text',
      '1 core MB/s',
      'all cores MB/s',
      'ratio',
      'npm tokenizers encodeBatch MB/s',
      'pillion is x faster',
    ],
    all,
  )
}
