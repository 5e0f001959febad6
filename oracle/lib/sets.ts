// The texts that every tokenizer is compared on. The same in each run: what is random has a fixed seed.
import { documents } from './corpora'
import { Random } from './random'

/** What the texts are made from. */
export interface SetInput {
  /** The tokenizer's file. */
  readonly file: TokenizerFile
  /** Real text by language. */
  readonly corpora: ReadonlyMap<string, string>
  /** Takes a part of each set. */
  readonly quick: boolean
}

/** What is read from a `tokenizer.json`. */
export interface TokenizerFile {
  readonly added_tokens?: readonly { readonly id: number; readonly content: string; readonly special: boolean }[]
  readonly model: { readonly vocab: Readonly<Record<string, number>> | readonly (readonly [string, number])[] }
}

/** Each set by its name, in the order in which they run: the cheap and telling ones first. */
export const sets: Readonly<Record<string, (input: SetInput) => string[]>> = {
  known: () => knownTrouble,
  whitespace: whitespaceGrid,
  apostrophes: apostropheGrid,
  'added tokens': addedTokens,
  surrogates: loneSurrogates,
  'long runs': longRuns,
  mixes,
  'random characters': randomCharacters,
  'marks in a row': markRuns,
  corpora: corpora,
  vocabulary: vocabularyEntries,
  'code points': codePoints,
  'code points in context': codePointsInContext,
}

const chars = (...codes: number[]): string => String.fromCodePoint(...codes)

// Texts on which some tokenizer was seen to fail, here or elsewhere.
const knownTrouble = [
  '',
  ' ',
  '\0',
  'a\0b',
  '\ufeff',
  '\ufeffabc',
  'a\ufeff',
  "a'\u017fabc",
  "'\u017f",
  "x'\u017f y'\u017fz",
  "'\u212a",
  "don't DON'T Don'\u017f",
  `a${chars(0x11de0)}b`,
  chars(0x18ded),
  chars(0x1cce1),
  '\u32ff',
  'e\u0310\u1de4',
  'e\u1de4\u0310',
  'q\u0307\u0323',
  '\u1e9b\u0323',
  '\u0344',
  '\u0958',
  '\u2126',
  '\u061d',
  'a\u061db',
  '\u00ad',
  'a\u00adb',
  'İstanbul',
  'ΣΑΣ ΟΔΟΣ',
  'ﬁ ﬂ ﬃ',
  '㍿',
  '①②③',
  '½⅓',
  'ＡＢＣ',
  'ｶﾞｷﾞ',
  '한국어',
  '\u1112\u1161\u11ab',
  '각각\u11a8',
  'ab, a.',
  '<h1>title</h1><table>',
  '>\u2581</',
  '\u2581',
  '\u2581\u2581a',
  'a\u2581b',
  ' \u2581 ',
  '<unk>',
  '[UNK]',
  '<s>',
  '</s>a',
  ' <s> ',
  '<|endoftext|>',
  '< |endoftext|>',
  '<|begin_of_text|><|begin_of_text|>',
  'a<|im_start|>b',
  '<|im_start|>user\nhi<|im_end|>\n',
  '<0x0A>',
  '<0xFF>',
  'a <0x41> b',
  '##ing',
  '[CLS] a [SEP]',
  '[MASK].',
  'Hello, world! 123 4567',
  '1234567890',
  '१२३४५६',
  '٠١٢٣٤',
  '1\u0660\u0967',
  '3.14159',
  '1,000,000',
  'x=1;y=22;z=333',
  'http://a.b/c?d=e&f=g#h',
  'C:\\Users\\x',
  'camelCaseHTTPServer',
  'snake_case_name',
  '  indented\n    more\n\ttab',
  '\r\n\r\n',
  'a\r\nb\rc\nd',
  ' \n ',
  '\n \n',
  '\u2028\u2029',
  '\u0085',
  'a\u0085b',
  '\u3000全角',
  '\u200b',
  'a\u200db',
  '👩‍👩‍👧‍👦',
  '🏳️‍🌈',
  '🇩🇪🇯🇵',
  '👍🏽',
  '☃️',
  'e\u0301',
  'é',
  'a\u0301\u0302\u0303',
  '\u0301',
  ' \u0301',
  '\u0301a',
  '日本語テキスト',
  '中文，测试。',
  'ไทยไม่มีวรรค',
  'हिन्दी में',
  'العَرَبِيَّة',
  'עִבְרִית',
  'Ελληνικά',
  'Русский текст',
  'Tiếng Việt',
  '“quotes” ‘single’',
  '…—–',
  '${x} `y` "z"',
  '\\n\\t',
  '\u{e0001}\u{e0041}',
  '\u{10ffff}',
  '\ufffd',
  '\uffff',
  '\ue000',
]

function corpora({ corpora, quick }: SetInput): string[] {
  return [...corpora.values()].flatMap((text) => documents(text, 2000, quick ? 10 : 150))
}

function codePoints({ quick }: SetInput): string[] {
  const out: string[] = []
  for (const code of scalars(0x11_0000, quick)) out.push(String.fromCodePoint(code))
  return out
}

function codePointsInContext({ quick }: SetInput): string[] {
  const out: string[] = []
  for (const code of scalars(0x3_2000, quick)) {
    const x = String.fromCodePoint(code)
    out.push(
      `a${x}a ${x} ${x}'s !${x}\n${x}A1  ${x} \n`,
      `${x}Bc'${x}d1${x}2${x}${x}.`,
      `é ${x}e\u0301 ${x}一${x}あ${x}\u0301`,
    )
  }
  return out
}

/** Every code point that is no surrogate; with `quick` the first ones and then every 61st, with all that lie at a border of 256. */
function* scalars(end: number, quick: boolean): Generator<number> {
  for (let code = 0; code < end; code += 1) {
    if (code >= 0xd800 && code < 0xe000) continue
    if (!quick || code < 0x800 || code % 61 === 0 || (code < 0x2_0000 && code % 256 < 1)) yield code
  }
}

function vocabularyEntries({ file, quick }: SetInput): string[] {
  const { vocab } = file.model
  const entries = Array.isArray(vocab) ? vocab.map(([token]) => token as string) : Object.keys(vocab)
  const some = quick ? entries.filter((_, i) => i % 23 === 0) : entries
  return some.flatMap((token) => {
    const plain = spelledOut(token)
    return plain === token ? [token, ` ${token}`] : [plain, token]
  })
}

/** What a token stands for: the bytes of a byte-level token, spaces for the lower block of SentencePiece. */
function spelledOut(token: string): string {
  const bytes: number[] = []
  for (const char of token) {
    const byte = byteOfChar.get(char)
    if (byte === undefined) return token.replaceAll('\u2581', ' ').replace(/^##/, '')
    bytes.push(byte)
  }
  const text = Buffer.from(bytes).toString('utf8')
  return text.includes('\ufffd') ? token : text
}

/** The characters by which byte-level vocabularies write bytes. */
const byteOfChar = new Map<string, number>()
{
  let next = 256
  for (let byte = 0; byte < 256; byte += 1) {
    const isPlain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
    byteOfChar.set(String.fromCharCode(isPlain ? byte : next), byte)
    if (!isPlain) next += 1
  }
}

const spaces = [
  '',
  ' ',
  '  ',
  '   ',
  '\n',
  ' \n',
  '\n ',
  '\r\n',
  '\t',
  ' \t',
  '\n\n',
  '\n\n ',
  '\u00a0',
  '\u3000',
  ' \u3000',
  '\u0085',
  '\u2028',
  '\r',
  '\v ',
  '\ufeff',
  '\u200b',
  '\u180e',
]
const words = [
  '',
  'a',
  'A',
  'aB',
  'Ab',
  '1',
  '12345',
  '!',
  '!!',
  "'",
  "'s",
  'あ',
  'カ・',
  'é',
  'e\u0301',
  '\u0301',
  '/',
  '_',
  '\u0e01',
  'ǅ',
  'ʰ',
  '٣',
  '½',
  '€',
  '\0',
  '\u2581',
  '漢',
  '😀',
]

function whitespaceGrid({ quick }: SetInput): string[] {
  const out: string[] = []
  for (const first of words)
    for (const space of spaces)
      for (const second of words)
        for (const last of quick ? ['', ' '] : ['', ' ', '\n', '\r\n', '  ']) out.push(first + space + second + last)
  return quick ? out.filter((_, i) => i % 5 === 0) : out
}

function apostropheGrid({ quick }: SetInput): string[] {
  const tails = [
    's',
    'S',
    't',
    'T',
    're',
    'RE',
    'rE',
    've',
    'VE',
    'm',
    'M',
    'll',
    'LL',
    'lL',
    'Ll',
    'd',
    'D',
    '\u017f',
    '\u017fx',
    'r',
    'v',
    'l',
    'k',
    '\u212a',
    'x',
    '',
    's1',
    'sa',
    'st',
    '\u1e9e',
    'ss',
    're\u017f',
  ]
  const heads = ['', ' ', 'a', 'A', 'é', 'あ', '1', '!', "'", "''", '\n', 'ab ', 'e\u0301', '\u0301', '\u2019']
  const out = new Set<string>()
  for (const head of heads)
    for (const tail of tails) {
      for (const end of ['', ' ', 'b', 'B', 'あ', '1', '!']) out.add(`${head}'${tail}${end}`)
      for (const tail2 of tails)
        for (const end of ['', 'b']) out.add(`${head}'${tail}'${tail2}${end}`).add(`${head}${tail}'${tail2}${end}`)
    }
  return quick ? [...out].filter((_, i) => i % 17 === 0) : [...out]
}

function addedTokens({ file, quick }: SetInput): string[] {
  const contents = (file.added_tokens ?? []).map((token) => token.content)
  const random = new Random(11)
  const most = quick ? 24 : 120
  const chosen =
    contents.length > most
      ? [...contents.slice(0, most / 3), ...random.shuffle(contents).slice(0, (2 * most) / 3)]
      : contents
  const around = quick
    ? ['', ' ', 'a', '\n', '1']
    : ['', ' ', '  ', 'a', '\n', ' a', 'A ', '1', '<', '|', 'é', 'e\u0301', '\u00a0', '\u3000', '\u017f', '漢']
  const out: string[] = []
  for (const token of chosen) {
    for (const before of around) for (const after of around) out.push(before + token + after)
    out.push(
      token.toUpperCase(),
      token.toLowerCase(),
      token.slice(1),
      token.slice(0, -1),
      token.repeat(3),
      Array.from(token).join(' '),
    )
    for (let k = 0; k < 6; k += 1) {
      out.push(
        token +
          random.pick(contents) +
          token.slice(0, 1 + random.below(token.length)) +
          random.pick(contents) +
          token.slice(random.below(token.length)),
      )
    }
  }
  // Every one of them at least once.
  if (!quick) for (const token of contents) out.push(`a ${token} b${token}`)
  return out
}

function loneSurrogates({ quick }: SetInput): string[] {
  const random = new Random(5)
  const units = [
    '\ud800',
    '\udbff',
    '\udc00',
    '\udfff',
    '\ud83c',
    '\udf0d',
    '\ud83c\udf0d',
    'a',
    ' ',
    'é',
    '漢',
    "'s",
    '\n',
    '1',
    '\u0301',
  ]
  const out = units.flatMap((first) =>
    units.flatMap((second) => [first + second, `${first}${second}${first}`, ` ${first} ${second}`]),
  )
  for (let i = 0; i < (quick ? 300 : 5000); i += 1)
    out.push(Array.from({ length: 1 + random.below(12) }, () => random.pick(units)).join(''))
  return out
}

function longRuns({ quick }: SetInput): string[] {
  const units = [
    'a',
    '_',
    ' ',
    '漢',
    'あ',
    '\n',
    '0',
    '!',
    'ab',
    'e\u0301',
    '😀',
    '\u0301',
    'aA',
    'Aa',
    ' a',
    '=-',
    '\r\n',
    'क्',
    '"',
    '\u00a0',
    "'",
    '\u2581',
  ]
  const lengths = quick
    ? [16, 64, 65, 129, 257, 1000]
    : [15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 127, 128, 129, 130, 255, 256, 257, 1000, 5000]
  const out = units.flatMap((unit) =>
    lengths.flatMap((n) => [unit.repeat(n), `${unit.repeat(n)}x`, ` ${unit.repeat(n)} b`, `xxx${unit.repeat(n)}`]),
  )
  const random = new Random(3)
  const run = (n: number, one: () => string): string => Array.from({ length: n }, one).join('')
  const base64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
  const size = quick ? 2000 : 20_000
  out.push(run(size, () => base64.charAt(random.below(64))))
  out.push(run(size / 2, () => String.fromCodePoint(0x4e00 + random.below(20_000))))
  out.push(run(size / 2, () => String.fromCodePoint(97 + random.below(26))))
  out.push(run(size / 4, () => String.fromCodePoint(0x1f300 + random.below(0x300))))
  out.push(run(size / 4, () => String.fromCodePoint(0x300 + random.below(0x70))))
  if (!quick) {
    for (const unit of ['a', '_', ' ', '漢', '😀', 'e\u0301', '\u0301']) out.push(unit.repeat(100_000))
    for (const unit of ['a', ' ', '漢']) out.push(unit.repeat(1_000_000))
  }
  return out
}

const mixPool = [
  'a',
  'b',
  'Z',
  'Q',
  'the',
  ' ',
  ' ',
  '  ',
  '\n',
  '\r\n',
  '\t',
  '0',
  '9',
  '42',
  "'",
  "'s",
  "'LL",
  '.',
  '...',
  '!',
  '/',
  '_',
  '-',
  'é',
  'ñ',
  'ß',
  'İ',
  'ſ',
  'Ǆ',
  'ǅ',
  'ʰ',
  'ª',
  'α',
  'Ω',
  'ς',
  'ж',
  'Ж',
  'ب',
  'ّ',
  '١',
  'अ',
  '्',
  '़',
  'क',
  'ก',
  '่',
  'あ',
  'ア',
  '・',
  'ー',
  '漢',
  '字',
  '〇',
  '゙',
  '一',
  'ｶ',
  'ﾞ',
  '가',
  '각',
  'ᄒ',
  'ᅡ',
  'ᆫ',
  '𝒜',
  '𝟘',
  '😀',
  '👨‍👩‍👧',
  '\u0301',
  '\u0323',
  '\u0310',
  '\u1de4',
  '\u200d',
  '\u200b',
  '\ufeff',
  '\u00a0',
  '\u3000',
  '\u2028',
  '\u0085',
  '\0',
  '\u001b',
  '€',
  '+',
  '$',
  '½',
  '²',
  'Ⅷ',
  '\u{1cce1}',
  '\u32ff',
  '\u{11de0}',
  '\u{16ff4}',
  '\u{18d00}',
  '\u{1fac6}',
  '\ue000',
  '\uffff',
  '\ufffd',
  '\u{10ffff}',
  'q\u0307\u0323',
  '\u2581',
  '\u061d',
  'ﬁ',
  '##',
  '\u0345',
]

function mixes({ file, quick }: SetInput): string[] {
  const random = new Random(12_345)
  const added = (file.added_tokens ?? []).map((token) => token.content)
  const pool = [...mixPool, ...added.slice(0, 5), ...added.slice(-3)]
  return Array.from({ length: quick ? 6000 : 70_000 }, () =>
    Array.from({ length: 1 + random.below(14) }, () => random.pick(pool)).join(''),
  )
}

function randomCharacters({ quick }: SetInput): string[] {
  const random = new Random(99)
  const bases = [
    0x20, 0x80, 0x300, 0x370, 0x400, 0x590, 0x600, 0x900, 0xe00, 0x1100, 0x1e00, 0x2000, 0x3040, 0x4e00, 0xac00, 0xfb00,
    0xff00, 0x1_0000, 0x1_1d00, 0x1_d400, 0x1_f300,
  ]
  const one = (base: number): string => {
    const code = random.below(4) === 0 ? random.below(0x2_0000) : base + random.below(0x80)
    return String.fromCodePoint(code >= 0xd800 && code < 0xe000 ? 0xfffd : code) + (random.below(5) === 0 ? ' ' : '')
  }
  return Array.from({ length: quick ? 3000 : 30_000 }, () => {
    const base = random.pick(bases)
    return Array.from({ length: 1 + random.below(24) }, () => one(base)).join('')
  })
}

/** Combining marks in every order: where normalization tables of different Unicode versions part. */
function markRuns({ quick }: SetInput): string[] {
  const marks: string[] = []
  for (let code = 0x300; code < 0x1_e950; code += 1) {
    const char = String.fromCodePoint(code)
    if (/\p{M}/u.test(char)) marks.push(char)
  }
  const random = new Random(21)
  const bases = ['a', 'e', 'あ', 'ก', 'क', 'ب', '1', ' ', '', '가']
  return Array.from({ length: quick ? 2000 : 20_000 }, () => {
    const run = Array.from({ length: 1 + random.below(5) }, () => random.pick(marks)).join('')
    return `${random.pick(bases)}${run}${random.below(3) === 0 ? 'b' : ''}`
  })
}
