// Round trips from JS: the rows are handed over, a promise is settled with the tokens. `bench.mts` runs it.
import { createRequire } from 'node:module'

interface Probe {
  submit(rows: Uint32Array): void
  take(into: Buffer): number
}

const [addon, json] = process.argv.slice(2) as [string, string]
const options = JSON.parse(json) as { bridges: string[]; calls: number; warmUp: number }
const native = createRequire(import.meta.url)(addon) as {
  Probe: new (bridge: string, setup: string, wake: () => void) => Probe
}
const rows = new Uint32Array(Array.from({ length: 32 }, (_, slot) => [slot, 100, 1, 1]).flat())

const bytes = Buffer.alloc(256)
const tokens = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)

/** Steps of one bridge, one at a time; each gives how many `tokens` it brought. */
function open(bridge: string): () => Promise<number> {
  let settle: (count: number) => void = () => undefined
  const probe = new native.Probe(bridge, json, () => settle(probe.take(bytes)))
  return () =>
    new Promise((resolve) => {
      settle = resolve
      probe.submit(rows)
    })
}

async function time(step: () => Promise<number>, calls: number): Promise<number[]> {
  const times: number[] = []
  for (let i = 0; i < calls; i += 1) {
    const begin = performance.now()
    const count = await step()
    times.push((performance.now() - begin) * 1000)
    if (count !== 32 || tokens[31] !== 31) throw new Error(`a wrong answer: ${tokens.join()}`)
    tokens.fill(0)
  }
  return times.sort((a, b) => a - b)
}

// Nothing else keeps Node alive here.
const alive = setInterval(() => undefined, 60_000)
for (const bridge of options.bridges) {
  const step = open(bridge)
  await time(step, options.warmUp)
  const times = await time(step, options.calls)
  const at = (part: number): number => times[Math.round((times.length - 1) * part)]!
  console.log(JSON.stringify({ what: 'step from JS', who: bridge, us: { p50: at(0.5), p99: at(0.99), max: at(1) } }))
}
clearInterval(alive)
process.exit(0)
