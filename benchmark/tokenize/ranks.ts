// Makes a `tokenizer.json` out of OpenAI's rank files, so that packages which read the one and packages which read the other do the same work.

const patterns = {
  cl100k_base: String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  r50k_base: undefined,
} as const

/** The file as an object. @param text lines of a token in base64 and its rank */
export function rankTokenizer(text: string, name: keyof typeof patterns): object {
  const ranks = new Map<string, number>()
  for (const line of text.split('\n')) {
    const [token, rank] = line.split(' ')
    if (token !== undefined && rank !== undefined)
      ranks.set(Buffer.from(token, 'base64').toString('latin1'), Number(rank))
  }
  const vocab = Object.fromEntries([...ranks].map(([token, rank]) => [spelled(token), rank]))
  const merges = [...ranks].filter(([token]) => token.length > 1).flatMap(([token, rank]) => merge(token, rank, ranks))
  const pattern = patterns[name]
  const byteLevel = {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: false,
    use_regex: pattern === undefined,
  }
  const split = { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false }
  return {
    version: '1.0',
    added_tokens: [],
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
function merge(token: string, rank: number, ranks: ReadonlyMap<string, number>): [string, string][] {
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

/** Bytes as byte-level vocabularies write them. */
function spelled(bytes: string): string {
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
