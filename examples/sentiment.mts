// A Python class of one's own. Run it with: npx tsx examples/sentiment.mts 'fine weather' 'a bad day' ''
import { join } from 'node:path'
import { Engine } from 'pillion'

interface Input {
  text: string
}
interface Output {
  label: 'positive' | 'negative'
  score: number
  /** A numpy array there, a typed array here. */
  weights: Float32Array
}

const texts = process.argv.slice(2)

const engine = await Engine.load<Input, Output>({
  model: {
    class: `${join(import.meta.dirname, 'sentiment/model.py')}:Sentiment`,
    options: { weights: { weather: 0.1 } },
  },
})
try {
  const results = await engine.predictBatch(texts.map((text) => ({ text })))
  for (const [index, result] of results.entries()) {
    const text = JSON.stringify(texts[index])
    // Each input fails by itself.
    if (result.ok) console.log(`${text}: ${result.value.label}, ${result.value.score.toFixed(2)}`, result.value.weights)
    else console.log(`${text}: ${result.error.code}, ${result.error.message}`)
  }
} finally {
  await engine.close()
}
