// What pillion is for, on a real model: `npm run demo`.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

import { Engine, Tokenizer } from 'pillion'

const model = process.argv[2] ?? '.models/smollm2'
const prompts = [
  'The capital of France is',
  'Water boils at',
  'The three primary colours are',
  'In the year 1969',
  'A prime number is',
  'The largest planet is',
  'To bake bread one needs',
  'The opposite of cold is',
]

await tokenizeBook()
const engine = await Engine.load({
  model,
  onProgress: ({ stage, done, total }) => {
    if (done === total) console.error(`  loading: ${stage}`)
  },
})
try {
  const { model: loaded, bridge, python } = engine.status()
  console.log(
    `\n${loaded.name} (${loaded.dtype}, ${loaded.device}, tier ${loaded.tier}) in Python ${python?.version}, ${bridge}`,
  )
  await chat()
  await together()
} finally {
  await engine.close()
}

/** (a) A real text of about 1 MB, on all cores, while this thread stays free. */
async function tokenizeBook(): Promise<void> {
  const tokenizer = await Tokenizer.fromPretrained(model)
  const texts = manual()
  const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0)
  await tokenizer.encodeBatch(texts.slice(0, 50)) // the pool is warm from here on
  const begin = performance.now()
  const { ids } = await tokenizer.encodeBatch(texts)
  const seconds = (performance.now() - begin) / 1000
  console.log(
    `encodeBatch: ${(bytes / 1e6).toFixed(2)} MB, ${texts.length} documents -> ${ids.length.toLocaleString('en')} tokens in ` +
      `${(seconds * 1000).toFixed(0)} ms: ${(bytes / 1e6 / seconds).toFixed(1)} MB/s, ${(ids.length / 1e6 / seconds).toFixed(2)} M tokens/s`,
  )
}

/** (b) A chat answer as it comes. */
async function chat(): Promise<void> {
  const run = engine.chat({
    messages: [{ role: 'user', content: 'Explain in two sentences why the sky is blue.' }],
    maxTokens: 80,
    temperature: 0,
  })
  process.stdout.write('\nchat> ')
  for await (const text of run.textStream) process.stdout.write(text)
  const { usage, timings, finishReason } = await run.result
  const perSecond = (usage.completionTokens - 1) / ((timings.totalMs! - timings.firstTokenMs!) / 1000)
  console.log(
    `\n      [${finishReason}; ${usage.completionTokens} tokens, first after ${timings.firstTokenMs!.toFixed(0)} ms, then ${perSecond.toFixed(1)} tokens/s]`,
  )
}

/** (c) Eight prompts at once against one after another. */
async function together(): Promise<void> {
  const generate = (prompt: string) => engine.generate({ prompt, maxTokens: 48, temperature: 0 }).result
  const time = async (work: () => Promise<{ usage: { completionTokens: number } }[]>) => {
    const begin = performance.now()
    const results = await work()
    const seconds = (performance.now() - begin) / 1000
    return results.reduce((sum, r) => sum + r.usage.completionTokens, 0) / seconds
  }
  const alone = await time(async () => {
    const results = []
    for (const prompt of prompts) results.push(await generate(prompt))
    return results
  })
  const batched = await time(() => Promise.all(prompts.map(generate)))
  console.log(
    `\n8 prompts one after another ${alone.toFixed(1)} tokens/s, at once ${batched.toFixed(1)} tokens/s: ${(batched / alone).toFixed(2)}x`,
  )
}

/** Python's own manual, which every Python carries, as documents of about 2,000 characters. */
function manual(): string[] {
  const python = process.env.PILLION_PYTHON ?? 'python3'
  const find =
    'import pydoc_data.topics as a, argparse as b, typing as c; print(a.__file__, b.__file__, c.__file__, sep="\\n")'
  const files = execFileSync(python, ['-c', find], { encoding: 'utf8' }).trim().split('\n')
  const text = files.map((file) => readFileSync(file, 'utf8').replaceAll('\\n', '\n')).join('\n')
  return text.match(/[\s\S]{1,2000}/g) ?? []
}
