/**
 * Reads the packed record that crosses from Rust once per wake-up, whatever happened since the last one. The layout is that of
 * `crates/pillion-node/src/stream.rs`: per event ten little-endian u32, then the columns, then text and JSON as UTF-8, each padded to 4.
 * A prediction has the bytes of its small tensors in place of ids, and in place of flags how many large ones there are beside the record.
 */

import type { TokenData } from './generation'

/** What the engine's Rust side tells. */
export type EngineEvent =
  | { readonly kind: 'run'; readonly run: number; readonly output: RunOutput }
  | {
      readonly kind: 'prediction'
      readonly run: number
      readonly json: string
      readonly data: Uint8Array
      readonly numLarge: number
    }
  | { readonly kind: 'progress' | 'load-failed' | 'log'; readonly json: string }
  | { readonly kind: 'ready' | 'closed' }

/** What one wake-up brings for one run. */
export interface RunOutput {
  readonly promptTokens: number
  readonly completionTokens: number
  readonly text: string
  readonly tokens?: TokenData
  /** JSON of how the run ended well. */
  readonly finish?: string
  /** JSON of the error that it ended with. */
  readonly error?: string
}

const headerWords = 10
const kindOf = { run: 1, progress: 2, ready: 3, loadFailed: 4, log: 5, closed: 6, prediction: 7 } as const
const flag = { finish: 1, error: 2, tokens: 4 } as const

/** Calls `handle` with each event of a record, in order. The record may be written anew afterwards, so `handle` copies what it keeps of `data`. */
export function readEvents(record: Uint32Array, handle: (event: EngineEvent) => void): void {
  const bytes = Buffer.from(record.buffer, record.byteOffset, record.byteLength)
  let at = 0
  while (at < record.length) at = readEvent(record, bytes, at, handle)
}

function readEvent(record: Uint32Array, bytes: Buffer, start: number, handle: (event: EngineEvent) => void): number {
  const [kind, run, flags, promptTokens, completionTokens, ids, logprobs, top, textBytes, jsonBytes] = record.subarray(
    start,
    start + headerWords,
  ) as unknown as Header
  let at = start + headerWords
  const words = (count: number): number => {
    const from = at
    at += count
    return from
  }
  const text = (length: number): string => {
    const from = 4 * words(Math.ceil(length / 4))
    return length === 0 ? '' : bytes.toString('utf8', from, from + length)
  }
  const data = kind === kindOf.prediction ? bytes.subarray(4 * words(ids), 4 * at) : undefined
  const tokens =
    data !== undefined || (flags & flag.tokens) === 0 ? undefined : readTokens(record, words, ids, logprobs, top)
  const body = text(textBytes)
  const json = text(jsonBytes)

  if (kind === kindOf.run) {
    handle({
      kind: 'run',
      run,
      output: {
        promptTokens,
        completionTokens,
        text: body,
        ...(tokens === undefined ? {} : { tokens }),
        ...((flags & flag.finish) === 0 ? {} : { finish: json }),
        ...((flags & flag.error) === 0 ? {} : { error: json }),
      },
    })
  } else if (data !== undefined) handle({ kind: 'prediction', run, json, data, numLarge: flags })
  else if (kind === kindOf.progress) handle({ kind: 'progress', json })
  else if (kind === kindOf.loadFailed) handle({ kind: 'load-failed', json })
  else if (kind === kindOf.log) handle({ kind: 'log', json })
  else handle({ kind: kind === kindOf.ready ? 'ready' : 'closed' })
  return at
}

type Header = [number, number, number, number, number, number, number, number, number, number]

// Copied: a part outlives the record, and a view would keep all of it alive.
function readTokens(
  record: Uint32Array,
  words: (count: number) => number,
  ids: number,
  logprobs: number,
  top: number,
): TokenData {
  const integers = (count: number): Uint32Array => {
    const from = words(count)
    return record.slice(from, from + count)
  }
  const floats = (count: number): Float32Array => new Float32Array(integers(count).buffer)
  return {
    ids: integers(ids),
    ...(logprobs === 0 ? {} : { logprobs: floats(logprobs) }),
    ...(top === 0 ? {} : { topIds: integers(top), topLogprobs: floats(top) }),
  }
}
