// Makes a `tokenizer.json` out of files of ranks, OpenAI's and Mistral's, so that packages which read the one and packages which read the other do
// the same work.

/** The patterns by which such files split, as `tokenizer.json` writes them; `undefined` is what `ByteLevel` does by itself. */
export const patterns = {
  cl100k_base: String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  r50k_base: undefined,
} as const

/** Tokens as bytes, each byte one character, with their ranks. */
export type Ranks = ReadonlyMap<string, number>

/** An added token of the made file. */
export interface SpecialToken {
  readonly id: number
  readonly content: string
}

/** What there is besides the ranks. */
export interface RankOptions {
  /** The pattern; `undefined` is what `ByteLevel` does by itself. */
  readonly pattern: string | undefined
  /** Special tokens; their ids must follow each other from 0 or from the end of the ranks. Default: none. */
  readonly special?: readonly SpecialToken[]
  /** The id of the token of rank 0. Default: 0 */
  readonly firstId?: number
}

/** Reads OpenAI's form: lines of a token in base64 and its rank. */
export function readRanks(text: string): Ranks {
  const ranks = new Map<string, number>()
  for (const line of text.split('\n')) {
    const [token, rank] = line.split(' ')
    if (token !== undefined && rank !== undefined)
      ranks.set(Buffer.from(token, 'base64').toString('latin1'), Number(rank))
  }
  return ranks
}

/** The file as an object. */
export function rankTokenizer(ranks: Ranks, { pattern, special = [], firstId = 0 }: RankOptions): object {
  const entries: [string, number][] = [...ranks].map(([token, rank]) => [spelled(token), rank + firstId])
  const vocab = Object.fromEntries([...special.map(({ id, content }): [string, number] => [content, id]), ...entries])
  const byRank = [...ranks].sort(([, a], [, b]) => a - b)
  const merges = byRank.filter(([token]) => token.length > 1).flatMap(([token, rank]) => merge(token, rank, ranks))
  const byteLevel = {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: false,
    use_regex: pattern === undefined,
  }
  const split = { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false }
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
  return {
    version: '1.0',
    added_tokens: special.map((token) => ({ ...token, ...flags })),
    normalizer: null,
    pre_tokenizer: pattern === undefined ? byteLevel : { type: 'Sequence', pretokenizers: [split, byteLevel] },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  }
}

/** The two tokens whose merge makes this one: what is left when it is merged with lower ranks only. */
function merge(token: string, rank: number, ranks: Ranks): [string, string][] {
  let parts = Array.from(token)
  for (;;) {
    let [best, at] = [rank, -1]
    for (let i = 0; i + 1 < parts.length; i += 1) {
      const found = ranks.get(`${parts[i] ?? ''}${parts[i + 1] ?? ''}`)
      if (found !== undefined && found < best) [best, at] = [found, i]
    }
    if (at < 0) break
    parts = [...parts.slice(0, at), `${parts[at] ?? ''}${parts[at + 1] ?? ''}`, ...parts.slice(at + 2)]
  }
  const [left, right] = parts
  return parts.length === 2 && left !== undefined && right !== undefined ? [[spelled(left), spelled(right)]] : []
}

/** Bytes, each one character, as byte-level vocabularies write them. */
export function spelled(bytes: string): string {
  return Array.from(bytes, (char) => charOfByte[char.charCodeAt(0)] ?? '').join('')
}

const charOfByte: string[] = []
{
  let next = 256
  for (let byte = 0; byte < 256; byte += 1) {
    const isPlain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
    charOfByte.push(String.fromCharCode(isPlain ? byte : next))
    if (!isPlain) next += 1
  }
}
