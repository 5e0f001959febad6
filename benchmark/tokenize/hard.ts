// Long runs without a break: time, how it grows, and how long the JS thread stands still.
import { hardInputs } from './inputs'
import { Peer, type Hard, type PackageName, type Places, type Vocabulary } from './peer'
import { median, table } from './table'

const sizes = [20_000, 100_000, 1_000_000]

/** All inputs in all sizes. A package that takes over the limit is killed, started anew and spared larger sizes. */
export async function hard(
  vocabulary: Vocabulary,
  where: Places,
  options: { limitMs: number; repeats: number; quick: boolean },
): Promise<string[][]> {
  const rows: string[][] = []
  for (const [name, make] of Object.entries(hardInputs)) {
    const texts = (options.quick ? sizes.slice(0, 2) : sizes).map((n) => make(n))
    const expected = new Map<string, string>()
    for (const who of ['tokenizers', ...vocabulary.packages.filter((one) => one !== 'tokenizers')] as PackageName[]) {
      const results = await onePackage(
        who,
        vocabulary,
        where,
        texts,
        who === 'pillion' ? { ...options, repeats: 5 } : options,
      )
      const same = results.every((result, i) => {
        if (result === undefined) return true
        if (who === 'tokenizers') expected.set(String(i), result.digest)
        return expected.get(String(i)) === undefined || expected.get(String(i)) === result.digest
      })
      const [, middle, large] = results
      const growth = middle === undefined || large === undefined ? '-' : (large.ms / middle.ms).toFixed(1)
      const cells = results.map((result) =>
        result === undefined ? `> ${options.limitMs / 1000} s` : `${digits(result.ms)} / ${digits(result.stall)}`,
      )
      rows.push([vocabulary.name, name, who, same ? 'equal' : '**differ**', ...cells, growth])
    }
  }
  return rows
}

async function onePackage(
  name: PackageName,
  vocabulary: Vocabulary,
  where: Places,
  texts: readonly string[],
  options: { limitMs: number; repeats: number },
): Promise<(Hard | undefined)[]> {
  const out: (Hard | undefined)[] = []
  let peer = await Peer.start(name, vocabulary, where)
  await peer.ask('hard', { text: 'warm up '.repeat(100) })
  for (const text of texts) {
    // Larger ones take longer still.
    if (out.length > 0 && out.at(-1) === undefined) {
      out.push(undefined)
      continue
    }
    try {
      const runs: Hard[] = []
      for (let i = 0; i < options.repeats; i += 1) runs.push(await peer.ask('hard', { text }, options.limitMs))
      const middle = median(runs.map(({ ms }) => ms))
      // The worst stall of all runs, not the middle one.
      out.push({ ...runs[0]!, ms: middle, stall: Math.max(...runs.map(({ stall }) => stall)) })
    } catch {
      out.push(undefined)
      peer.stop()
      peer = await Peer.start(name, vocabulary, where)
    }
  }
  peer.stop()
  return out
}

function digits(ms: number): string {
  return ms < 10 ? ms.toFixed(2) : ms.toFixed(0)
}

/** The table of `hard`. */
export function hardTable(all: readonly string[][]): string {
  const columns = (all[0]?.length ?? 5) - 5
  const header = [
    'vocabulary',
    'input',
    'package',
    'ids',
    ...sizes.slice(0, columns).map((n) => `${n / 1000}k: ms / longest stall of the JS thread ms`),
    '1M over 100k',
  ]
  return table(header, all)
}
