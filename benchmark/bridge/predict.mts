// What a call of the package costs from JS, on a class that gives back what it gets. `bench.mts` runs it.
import path from 'node:path'

import { Engine, type Bridge } from 'pillion'

const options = JSON.parse(process.argv[2]!) as { python: string; bridges: Bridge[]; calls: number; warmUp: number }
const model = { class: `${path.join(import.meta.dirname, 'plain.py')}:Plain` }
for (const bridge of options.bridges) {
  const engine = await Engine.load({ model, bridge, python: options.python })
  const times: number[] = []
  for (let i = -options.warmUp; i < options.calls; i += 1) {
    const begin = performance.now()
    const answer = await engine.predict(7)
    const us = (performance.now() - begin) * 1000
    if (answer !== 7) throw new Error(`a wrong answer: ${String(answer)}`)
    if (i >= 0) times.push(us)
  }
  times.sort((a, b) => a - b)
  const at = (part: number): number => times[Math.round((times.length - 1) * part)]!
  console.log(JSON.stringify({ what: 'predict', who: bridge, us: { p50: at(0.5), p99: at(0.99), max: at(1) } }))
  await engine.close()
}
