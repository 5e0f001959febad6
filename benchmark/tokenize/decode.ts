// Detokenizing as tokens come: cost of one token by how many came before.
import type { Group } from './inputs'
import { Peer, type ByLength, type PackageName, type Places, type Vocabulary } from './peer'
import { range, table } from './table'

const marks = [1000, 2000, 4000, 8000, 16_000, 32_000]

/** Streams of those that have one; for the others what it costs to decode all of the history again. */
export async function decode(vocabulary: Vocabulary, group: Group, where: Places, rounds: number): Promise<string[][]> {
  const text = group.documents.slice(0, 200).join('\n')
  const rows: string[][] = []
  for (const name of vocabulary.packages.filter(
    (one) => one === 'pillion' || one === 'tokenizers' || one === 'gpt-tokenizer',
  )) {
    const runs: ByLength[] = []
    const peer = await Peer.start(name, vocabulary, where)
    for (let round = -1; round < (name === 'tokenizers' ? 1 : rounds); round += 1) {
      runs.push(
        name === 'tokenizers'
          ? await peer.ask('redecode', { text, marks, calls: 3 })
          : await peer.ask('stream', { text, marks }),
      )
    }
    peer.stop()
    // In the first one nothing is compiled, and nothing kept, yet.
    const [first, ...others] = runs
    const row = (what: string, some: readonly ByLength[]): string[] => [
      vocabulary.name,
      what,
      ...marks.map((_, i) => range(some.map((run) => (run.out[i]?.ns ?? Number.NaN) / 1000))),
    ]
    if (name !== 'tokenizers' && first !== undefined) rows.push(row(`${label(name)}, the first of a process`, [first]))
    rows.push(row(label(name), others))
  }
  return rows
}

function label(name: PackageName): string {
  return name === 'tokenizers' ? 'tokenizers, decoding all again' : `${name}, stream`
}

/** The table of `decode`. */
export function decodeTable(all: readonly string[][]): string {
  return table(
    [
      'vocabulary',
      'package',
      ...marks.map((n, i) => `us a token, ${i === 0 ? 0 : (marks[i - 1] ?? 0) / 1000}k-${n / 1000}k`),
    ],
    all,
  )
}
