// Tokenizes files in parallel, without Python: tsx examples/encode-batch.ts MODEL_FOLDER FILE...
import { readFileSync } from 'node:fs'

import { PillionError, Tokenizer } from 'pillion'

const [model, ...files] = process.argv.slice(2)
if (model === undefined || files.length === 0) {
  console.error('usage: encode-batch MODEL_FOLDER FILE...')
  process.exit(2)
}

try {
  const tokenizer = await Tokenizer.fromPretrained(model)
  // Bytes are UTF-8 already; there is no need to make strings of them.
  const batch = await tokenizer.encodeBatch(files.map((file) => readFileSync(file)))
  for (const [i, file] of files.entries()) console.log(`${batch.row(i).ids.length}\t${file}`)
  console.log(`${batch.ids.length}\tin all`)
} catch (error) {
  if (!PillionError.isInstance(error)) throw error
  console.error(`${error.code}: ${error.message}`)
  process.exitCode = 1
}
