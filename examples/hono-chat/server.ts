// A chat over HTTP, streamed as the model writes it. MODEL names a folder; without it the echo model answers, which needs no Python.
//
//   curl -N localhost:3000/chat -H 'content-type: application/json' -d '{"messages":[{"role":"user","content":"Hello!"}]}'
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { stream } from 'hono/streaming'
import { Engine, PillionError, type ChatMessage } from 'pillion'

import { page } from './page.js'

const engine = await Engine.load({ model: process.env['MODEL'] ?? { echo: { stepMs: 20 } } })
const app = new Hono()

app.get('/', (c) => c.html(page))
app.get('/status', (c) => c.json(engine.status()))
app.get('/metrics', (c) => c.text(engine.metrics().toPrometheus()))

app.post('/chat', async (c) => {
  const { messages, maxTokens } = await c.req.json<{ messages: ChatMessage[]; maxTokens?: number }>()
  const run = engine.chat({ messages, maxTokens: maxTokens ?? 256 })
  const texts = run.textStream[Symbol.asyncIterator]()
  // A request that is refused fails before its first text, while there is still a status to say so with.
  let next = await texts.next()
  c.header('content-type', 'text/plain; charset=utf-8')
  return stream(c, async (out) => {
    // The reader has gone: the work ends with it.
    out.onAbort(() => run.abort())
    for (; next.done !== true; next = await texts.next()) await out.write(next.value)
  })
})

app.onError((error, c) => {
  if (!PillionError.isInstance(error)) throw error
  const { code, message, retryable } = error
  if (error.retryAfterMs !== undefined) c.header('retry-after', String(Math.ceil(error.retryAfterMs / 1000)))
  return c.json({ error: { code, message, retryable } }, code === 'invalid_argument' ? 400 : retryable ? 503 : 500)
})

const listen = { hostname: process.env['HOST'] ?? '127.0.0.1', port: Number(process.env['PORT'] ?? 3000) }
const server = serve({ fetch: app.fetch, ...listen }, ({ port }) => {
  console.log(`listening on http://localhost:${port}`)
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    server.close()
    void engine.close()
  })
}
