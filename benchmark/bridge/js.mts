// Round trips from JS: the rows are handed over, a promise is settled with the tokens. `bench.mts` runs it.
import { createRequire } from 'node:module'

interface Probe {
  submit(rows: Uint32Array): void
  take(): Uint32Array
}

const [addon, json] = process.argv.slice(2) as [string, string]
const options = JSON.parse(json) as { bridges: string[]; calls: number; warmUp: number }
const native = createRequire(import.meta.url)(addon) as {
  Probe: new (bridge: string, setup: string, wake: () => void) => Probe
}
const rows = new Uint32Array(Array.from({ length: 32 }, (_, slot) => [slot, 100, 1, 1]).flat())

/** Steps of one bridge, one at a time. */
function open(bridge: string): () => Promise<Uint32Array> {
  let settle: (tokens: Uint32Array) => void = () => undefined
  const probe = new native.Probe(bridge, json, () => settle(probe.take()))
  return () =>
    new Promise((resolve) => {
      settle = resolve
      probe.submit(rows)
    })
}

async function time(step: () => Promise<Uint32Array>, calls: number): Promise<number[]> {
  const times: number[] = []
  for (let i = 0; i < calls; i += 1) {
    const begin = performance.now()
    const tokens = await step()
    times.push((performance.now() - begin) * 1000)
    if (tokens.length !== 32 || tokens[31] !== 31) throw new Error(`a wrong answer: ${tokens.join()}`)
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
