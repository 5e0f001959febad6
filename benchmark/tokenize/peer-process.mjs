// One package with one tokenizer in a process of its own, asked over IPC: node [--expose-gc] peer-process.mjs FOLDER-OF-PACKAGES wall|cpu
// Texts are made or cut here, before the clock starts; ids stay here too, only times and a digest go back.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'

const load = createRequire(path.join(process.argv[2], 'package.json'))

/** How each package loads a tokenizer and encodes one text; `batch` where it has one, `isAsync` where `encode` gives a promise. */
const packages = {
  async pillion({ file, entry }) {
    const { Tokenizer } = createRequire(import.meta.url)(entry)
    const tokenizer = await Tokenizer.fromFile(file)
    const plain = { addSpecialTokens: false }
    return {
      encode: (text) => tokenizer.encode(text, plain).ids,
      encodeAsync: async (text) => (await tokenizer.encodeAsync(text, plain)).ids,
      batch: async (texts) => (await tokenizer.encodeBatch(texts, plain)).ids,
      stream: () => tokenizer.decodeStream(),
      decode: (ids) => tokenizer.decode(ids),
      engine: tokenizer.engine.name,
    }
  },
  async tokenizers({ file }) {
    const { Tokenizer } = load('tokenizers')
    const tokenizer = Tokenizer.fromFile(file)
    tokenizer.disableTruncation()
    tokenizer.disablePadding()
    const plain = { addSpecialTokens: false }
    const encode = async (text) => (await tokenizer.encode(text, null, plain)).getIds()
    return {
      isAsync: true,
      encode,
      encodeAsync: encode,
      batch: async (texts) => (await tokenizer.encodeBatch(texts, plain)).flatMap((encoding) => encoding.getIds()),
      decode: (ids) => tokenizer.decode(Array.from(ids), false),
    }
  },
  async '@huggingface/tokenizers'({ file }) {
    const { Tokenizer } = load('@huggingface/tokenizers')
    const tokenizer = new Tokenizer(JSON.parse(readFileSync(file, 'utf8')), {})
    return {
      encode: (text) => tokenizer.encode(text, { add_special_tokens: false }).ids,
      decode: (ids) => tokenizer.decode(Array.from(ids)),
    }
  },
  async kitoken({ file }) {
    const { Kitoken } = load('kitoken/node')
    const tokenizer = Kitoken.from_tokenizers(readFileSync(file))
    return { encode: (text) => tokenizer.encode(text, false) }
  },
  async 'gpt-tokenizer'({ ranks }) {
    const encoding = load(`gpt-tokenizer/encoding/${ranks}`)
    // Texts are data: what looks like a special token is text.
    const options = { disallowedSpecial: new Set() }
    return {
      encode: (text) => encoding.encode(text, options),
      decode: (ids) => encoding.decode(ids),
      stream: () => generatorStream(encoding),
    }
  },
  async 'ai-tokenizer'({ ranks }) {
    const { default: Tokenizer } = load('ai-tokenizer')
    const tokenizer = new Tokenizer(load(`ai-tokenizer/encoding/${ranks}`))
    return { encode: (text) => tokenizer.encode(text), decode: (ids) => tokenizer.decode(Array.from(ids)) }
  },
  async tiktoken({ ranks }) {
    const encoding = load('tiktoken').get_encoding(ranks)
    return { encode: (text) => encoding.encode_ordinary(text) }
  },
  async 'tiktoken-node'({ ranks }) {
    const encoding = load('tiktoken-node').getEncoding(ranks)
    return {
      encode: (text) => encoding.encode(text),
      batch: async (texts) => encoding.encodeBatch(texts).flat(),
      decode: (ids) => encoding.decode(Array.from(ids)),
    }
  },
}

/** A generator that decodes what is pushed into it, as a stream. */
function generatorStream(encoding) {
  let next
  const source = (function* () {
    for (;;) yield next
  })()
  const texts = encoding.decodeGenerator(source)
  return {
    push(id) {
      next = id
      return texts.next().value
    },
  }
}

// On a busy machine the time of the processor says more than that of the clock, as long as one thread works.
const clock =
  process.argv[3] === 'cpu'
    ? () => {
        const { user, system } = process.cpuUsage()
        return (user + system) / 1000
      }
    : () => performance.now()

let peer

const commands = {
  async load(options) {
    const begin = performance.now()
    peer = await packages[options.package](options)
    const ms = performance.now() - begin
    return { ms, engine: peer.engine, has: Object.keys(peer) }
  },

  /** The first encode after loading. */
  async first({ text }) {
    const begin = clock()
    const ids = await peer.encode(text)
    return { ms: clock() - begin, tokens: ids.length }
  },

  /** Encodes each document with a call of its own; the digest is over the ids of the first `checked` ones. */
  async each({ texts, passes = 1, checked = texts.length }) {
    const rows = new Array(texts.length)
    const times = []
    for (let pass = 0; pass < passes; pass += 1) {
      const begin = clock()
      if (peer.isAsync) for (let i = 0; i < texts.length; i += 1) rows[i] = await peer.encode(texts[i])
      else for (let i = 0; i < texts.length; i += 1) rows[i] = peer.encode(texts[i])
      times.push(clock() - begin)
    }
    return { times, ...summary(rows.slice(0, checked)) }
  },

  /** Encodes all documents with one call. */
  async batch({ texts, passes = 1 }) {
    const times = []
    let ids
    // Node's threads still sort out what the message with the texts has left.
    await new Promise((resolve) => setTimeout(resolve, 300))
    for (let pass = 0; pass < passes; pass += 1) {
      const begin = clock()
      ids = await peer.batch(texts)
      times.push(clock() - begin)
    }
    return { times, ...summary([ids]) }
  },

  /** One text with the asynchronous form where there is one, and how long the JS thread could do nothing else meanwhile. */
  async hard({ text }) {
    let stall = 0
    let last = performance.now()
    let running = true
    const beat = () => {
      const now = performance.now()
      stall = Math.max(stall, now - last)
      last = now
      if (running) setImmediate(beat)
    }
    // Two turns of the loop first, so that its own start is not counted.
    await new Promise((resolve) => setImmediate(resolve))
    last = performance.now()
    setImmediate(beat)
    await new Promise((resolve) => setImmediate(resolve))
    stall = 0
    const begin = performance.now()
    const ids = await (peer.encodeAsync ?? peer.encode)(text)
    const ms = performance.now() - begin
    beat()
    running = false
    return { ms, stall, ...summary([ids]) }
  },

  /** Nanoseconds per call of `encode`, over many texts, several times. */
  async calls({ texts, passes }) {
    const times = []
    let tokens = 0
    for (let pass = 0; pass < passes; pass += 1) {
      const begin = clock()
      if (peer.isAsync) for (const text of texts) tokens += (await peer.encode(text)).length
      else for (const text of texts) tokens += peer.encode(text).length
      times.push(((clock() - begin) * 1e6) / texts.length)
    }
    return { times, tokens }
  },

  /** A stream of so many tokens, one push each; nanoseconds a token at some lengths of history. */
  async stream({ text, marks }) {
    const ids = Array.from(await (peer.encodeAsync ?? peer.encode)(text)).slice(0, marks.at(-1))
    const stream = peer.stream()
    const out = []
    let [at, length] = [0, 0]
    for (const mark of marks) {
      const end = Math.min(mark, ids.length)
      const from = at
      const begin = clock()
      for (; at < end; at += 1) length += stream.push(ids[at]).length
      out.push({ to: end, ns: ((clock() - begin) * 1e6) / (end - from) })
    }
    return { out, length, tokens: ids.length }
  },

  /** Decoding all of the history again for each token, which is what a stream costs without one. */
  async redecode({ text, marks, calls }) {
    const ids = Array.from(await (peer.encodeAsync ?? peer.encode)(text)).slice(0, marks.at(-1))
    const out = []
    for (const mark of marks) {
      const history = ids.slice(0, mark)
      const begin = clock()
      for (let i = 0; i < calls; i += 1) await peer.decode(history)
      out.push({ to: history.length, ns: ((clock() - begin) * 1e6) / calls })
    }
    return { out, tokens: ids.length }
  },

  /** Resident memory over so many megabytes of text with words that never came before. */
  async memory({ megabytes, samples, seed, byBatch }) {
    const make = textMaker(seed)
    const out = []
    const sample = (done) => {
      globalThis.gc?.()
      out.push({ mb: done, rss: process.memoryUsage().rss / 2 ** 20 })
    }
    sample(0)
    let [bytes, next] = [0, 0]
    const step = (megabytes * 1e6) / samples
    while (bytes < megabytes * 1e6) {
      const texts = Array.from({ length: 128 }, () => make(2000))
      for (const text of texts) bytes += text.length
      if (byBatch && peer.batch) await peer.batch(texts)
      else for (const text of texts) await peer.encode(text)
      if (bytes >= next + step) {
        next += step
        sample(bytes / 1e6)
      }
    }
    sample(bytes / 1e6)
    return { out }
  },
}

/** Texts in which most words are new: syllables in random order, numbers and capitals among them. */
function textMaker(seed) {
  let state = seed >>> 0
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state >>> 8
  }
  const syllables = Array.from({ length: 512 }, () => {
    const [first, vowel, last] = [
      'bcdfghjklmnpqrstvwxyz'[random() % 21],
      'aeiou'[random() % 5],
      ['', 'n', 'r', 's', 'l', 't'][random() % 6],
    ]
    return first + vowel + last
  })
  return (length) => {
    let text = ''
    while (text.length < length) {
      const kind = random() % 16
      if (kind === 0) text += `${random() % 1_000_000} `
      else {
        let word = syllables[random() % 512]
        for (let i = random() % 4; i > 0; i -= 1) word += syllables[random() % 512]
        text += kind === 1 ? `${word[0].toUpperCase()}${word.slice(1)}. ` : `${word} `
      }
    }
    return text
  }
}

function summary(rows) {
  const digest = createHash('sha1')
  let tokens = 0
  for (const row of rows) {
    tokens += row.length
    const ids = row instanceof Uint32Array ? row : Uint32Array.from(row)
    digest.update(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength))
  }
  return { tokens, digest: digest.digest('hex') }
}

process.on('message', ({ id, command, options }) => {
  commands[command](options).then(
    (answer) => process.send({ id, answer }),
    (error) => process.send({ id, error: String(error?.stack ?? error) }),
  )
})
process.on('disconnect', () => process.exit())
