// A chat in the terminal: tsx examples/chat.ts [MODEL_FOLDER]. Without a folder the echo model answers, which needs no Python.
// Ctrl-C ends the answer, twice the program.
import { createInterface } from 'node:readline/promises'

import { Engine, type ChatMessage } from 'pillion'

const model = process.argv[2] ?? { echo: { stepMs: 10 } }
const engine = await Engine.load({
  model,
  onProgress: ({ stage }) => console.error(`loading: ${stage}`),
})
const terminal = createInterface({ input: process.stdin, output: process.stdout })
const messages: ChatMessage[] = []
try {
  for (;;) {
    const content = await terminal.question('you> ').catch(() => '')
    if (content === '') break
    messages.push({ role: 'user', content })
    messages.push({ role: 'assistant', content: await answer() })
  }
} finally {
  terminal.close()
  await engine.close({ drainMs: 0 })
}

async function answer(): Promise<string> {
  const run = engine.chat({ messages, maxTokens: 256 })
  const stop = (): void => run.abort()
  terminal.on('SIGINT', stop)
  for await (const text of run.textStream) process.stdout.write(text)
  terminal.off('SIGINT', stop)
  const { usage, timings } = await run.result
  console.log(`\n(${usage.completionTokens} tokens, the first after ${(timings['firstTokenMs'] ?? 0).toFixed(0)} ms)`)
  return await run.text
}
