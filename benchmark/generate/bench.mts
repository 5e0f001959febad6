// Tokens per second of the engine at 1, 8 and 16 streams beside a bare Python loop over the same forward pass. The two take turns
// within each round, in one run on one machine, and their first answers are compared before anything is timed.
//
//   npm run bench -- generate [--model DIR] [--dtype float32|bfloat16] [--tokens 64] [--rounds 5]
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { Engine } from 'pillion'

const here = path.dirname(fileURLToPath(import.meta.url))
const root = path.resolve(here, '../..')
const { values } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(root, '.models/smollm2') },
    dtype: { type: 'string', default: 'float32' },
    tokens: { type: 'string', default: '64' },
    rounds: { type: 'string', default: '5' },
    streams: { type: 'string', default: '1,8,16' },
  },
})
const tokens = Number(values.tokens)
const rounds = Number(values.rounds)
const streams = values.streams.split(',').map(Number)
const python = process.env.PILLION_PYTHON ?? path.join(root, '.venv/bin/python')

const engine = await Engine.load({ model: values.model, dtype: values.dtype, python })
const bare = await startBare()
try {
  const prompts = makePrompts(Math.max(...streams))
  await checkEqual(prompts)
  const samples = new Map(streams.map((n) => [n, { engine: [] as number[], bare: [] as number[] }]))
  for (let round = 0; round < rounds; round += 1) {
    for (const n of streams) {
      const batch = prompts.slice(0, n)
      // Who goes first changes from round to round, so that neither profits from the other's warmth.
      const order = round % 2 === 0 ? (['engine', 'bare'] as const) : (['bare', 'engine'] as const)
      for (const who of order) {
        const seconds = who === 'engine' ? await timeEngine(batch) : (await bare.run(batch, tokens)).seconds
        samples.get(n)![who].push((n * tokens) / seconds)
      }
    }
    console.error(`round ${round + 1} of ${rounds}`)
  }
  report(samples)
} finally {
  bare.stop()
  await engine.close()
}

async function timeEngine(batch: number[][]): Promise<number> {
  const begin = performance.now()
  await Promise.all(batch.map((prompt) => generate(prompt)))
  return (performance.now() - begin) / 1000
}

async function generate(prompt: number[]): Promise<number[]> {
  const result = await engine.generate({ prompt, maxTokens: tokens, temperature: 0, ignoreEos: true, tokens: true })
    .result
  return Array.from(result.tokens!.ids)
}

/** The bare loop runs equal lengths, so that it pays for no padding: what it does is the best that this forward can do. */
function makePrompts(n: number): number[][] {
  const text =
    'The quick brown fox jumps over the lazy dog and then it goes on to tell the others what happened there. '
  const ids = Array.from(engine.tokenizer!.encode(text.repeat(4)).ids)
  return Array.from({ length: n }, (_, i) => ids.slice(i, i + 32))
}

async function checkEqual(prompts: number[][]): Promise<void> {
  const ours = await generate(prompts[0]!)
  const theirs = (await bare.run([prompts[0]!], tokens)).tokens[0]!
  const equal = ours.every((id, i) => id === theirs[i])
  console.log(`greedy tokens equal to the bare loop's: ${equal ? 'yes' : 'no'}`)
  if (!equal && values.dtype === 'float32') throw new Error('float32 answers differ: nothing is timed')
}

function report(samples: Map<number, { engine: number[]; bare: number[] }>): void {
  console.log(
    `\n${path.basename(values.model)}, ${values.dtype}, ${tokens} tokens a stream, prompts of 32, medians of ${rounds} rounds`,
  )
  console.log('| streams | bare loop tok/s | pillion tok/s | ratio, median of rounds (min-max) |\n|---|---|---|---|')
  for (const [n, s] of samples) {
    const ratios = s.engine.map((e, i) => e / s.bare[i]!)
    const range = `${Math.min(...ratios).toFixed(3)}-${Math.max(...ratios).toFixed(3)}`
    console.log(
      `| ${n} | ${median(s.bare).toFixed(1)} | ${median(s.engine).toFixed(1)} | ${median(ratios).toFixed(3)} (${range}) |`,
    )
  }
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)]!
}

/** A Python process with the model loaded, asked over its standard input. */
async function startBare() {
  const child = spawn(python, [path.join(here, 'bare.py'), values.model, values.dtype], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const lines = createInterface({ input: child.stdout })
  await once(lines, 'line')
  return {
    async run(prompts: number[][], n: number): Promise<{ seconds: number; tokens: number[][] }> {
      child.stdin.write(`${JSON.stringify({ prompts, tokens: n })}\n`)
      const [line] = (await once(lines, 'line')) as [string]
      return JSON.parse(line) as { seconds: number; tokens: number[][] }
    },
    stop: () => child.stdin.end(),
  }
}
