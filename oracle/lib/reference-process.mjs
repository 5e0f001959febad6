// The process that has the reference loaded: node reference-process.mjs FOLDER-OF-PACKAGES TOKENIZER-FILE
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'

const [packages, file] = process.argv.slice(2)
const { Tokenizer } = createRequire(path.join(packages, 'package.json'))('tokenizers')
const tokenizer = Tokenizer.fromString(readFileSync(file, 'utf8'))
// These are settings of a call with us, so the file's own are left out on both sides.
tokenizer.disablePadding()
tokenizer.disableTruncation()

process.on('message', ({ id, question }) => {
  const work = question.kind === 'encode' ? encode(question) : decode(question)
  work.then(
    (answer) => process.send({ id, answer }),
    (error) => process.send({ id, error: String(error) }),
  )
})
process.on('disconnect', () => process.exit())

async function encode({ texts, addSpecialTokens }) {
  const encodings = await tokenizer.encodeBatch(texts, { addSpecialTokens })
  const rows = encodings.map((encoding) => encoding.getIds())
  const lengths = Uint32Array.from(rows, (row) => row.length)
  const total = lengths.reduce((sum, length) => sum + length, 0)
  const ids = new Uint32Array(total)
  const offsets = new Uint32Array(2 * total)
  let at = 0
  rows.forEach((row, i) => {
    ids.set(row, at)
    for (const [start, end] of encodings[i].getOffsets()) {
      offsets[2 * at] = start
      offsets[2 * at + 1] = end
      at += 1
    }
  })
  return { lengths, ids, offsets }
}

async function decode({ lengths, ids, skipSpecialTokens }) {
  const rows = []
  let at = 0
  for (const length of lengths) {
    rows.push(Array.from(ids.subarray(at, at + length)))
    at += length
  }
  return await tokenizer.decodeBatch(rows, skipSpecialTokens)
}
