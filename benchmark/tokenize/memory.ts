// Resident memory while text passes whose words never came before.
import { Peer, type PackageName, type Places, type Vocabulary } from './peer'
import { table } from './table'

/** Growth from after a tenth of the text, when buffers and the collector have found their size, and from right after loading. */
export async function memory(vocabulary: Vocabulary, where: Places, megabytes: number): Promise<string[][]> {
  const rows: string[][] = []
  const runs: [PackageName, number, boolean][] = [
    ['pillion', megabytes, true],
    ['pillion', megabytes / 4, false],
    ['tokenizers', Math.min(megabytes, 50), true],
  ]
  for (const [name, size, byBatch] of runs) {
    const peer = await Peer.start(name, vocabulary, where)
    const { out } = await peer.ask('memory', { megabytes: size, samples: 10, seed: 5, byBatch }, 1_200_000)
    peer.stop()
    const rss = out.map((sample) => sample.rss)
    const [start, tenth, end] = [rss[0] ?? 0, rss[1] ?? 0, rss.at(-1) ?? 0]
    const how = byBatch ? 'encodeBatch of 128' : 'encode'
    rows.push([
      vocabulary.name,
      name,
      how,
      size.toFixed(0),
      start.toFixed(0),
      end.toFixed(0),
      (end - start).toFixed(0),
      (end - tenth).toFixed(0),
      (Math.max(...rss) - start).toFixed(0),
    ])
  }
  return rows
}

/** The table of `memory`. */
export function memoryTable(all: readonly string[][]): string {
  return table(
    [
      'vocabulary',
      'package',
      'call',
      'MB of text',
      'RSS loaded MiB',
      'RSS at the end',
      'growth',
      'growth after the first tenth',
      'greatest growth seen',
    ],
    all,
  )
}
