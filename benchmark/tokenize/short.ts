// One call of `encode` for 100 characters on the JS thread, and what the crossing alone costs.
import type { Group } from './inputs'
import { Peer, type PackageName, type Places, type Vocabulary } from './peer'
import { range, ratios, table } from './table'

/** Microseconds per call; packages take turns, each in one process. */
export async function short(vocabulary: Vocabulary, group: Group, where: Places, rounds: number): Promise<string[][]> {
  const peers = new Map<PackageName, Peer>()
  const microseconds = new Map<PackageName, number[]>()
  const crossing: number[] = []
  const texts = group.documents
    .slice(0, 400)
    .flatMap((text) => [text.slice(0, 100), text.slice(500, 600), text.slice(1000, 1100), text.slice(1500, 1600)])
  try {
    for (const name of vocabulary.packages) {
      try {
        peers.set(name, await Peer.start(name, vocabulary, where))
      } catch (error) {
        console.error(String(error).split('\n')[0])
        continue
      }
      microseconds.set(name, [])
      await peers.get(name)!.ask('calls', { texts, passes: name === 'pillion' ? 5 : 1 })
    }
    for (let round = 0; round < rounds; round += 1) {
      for (const [name, peer] of peers) {
        const { times } = await peer.ask('calls', { texts, passes: name === 'pillion' ? 5 : 1 })
        microseconds.get(name)!.push(Math.min(...times) / 1000)
        if (name !== 'pillion') continue
        const empty = await peer.ask('calls', { texts: texts.map(() => ''), passes: 5 })
        crossing.push(Math.min(...empty.times) / 1000)
      }
    }
  } finally {
    for (const peer of peers.values()) peer.stop()
  }
  const ours = microseconds.get('pillion')!
  const rows = [...microseconds].map(([name, own]) => [
    vocabulary.name,
    group.name,
    name,
    range(own),
    name === 'pillion' ? '1' : range(ratios(own, ours), 1),
  ])
  return [
    ...rows,
    [
      vocabulary.name,
      group.name,
      'pillion, an empty text: the crossing',
      range(crossing),
      `${range(ours.map((us, i) => us - (crossing[i] ?? 0)))} us are the text's`,
    ],
  ]
}

/** The table of `short`. */
export function shortTable(all: readonly string[][]): string {
  return table(['vocabulary', 'text', 'package', 'us a call of 100 characters', 'pillion takes x less time'], all)
}
