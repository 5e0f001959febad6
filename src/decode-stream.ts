/** Ids on their way to text as they come. */

import { callNative } from './call'
import { describe, invalidArgument } from './errors'
import type { NativeDecodeStream } from './native'
import { unshared } from './texts'

/** Turns ids into text as they come; never gives half of a character. */
export interface DecodeStream {
  /** Takes ids; returns the text that is certain now, which may be empty. */
  push(ids: number | ArrayLike<number>): string
  /** Ends the stream; returns the rest, in which an incomplete character is U+FFFD. The stream can be used anew. */
  end(): string
}

/**
 * The texts of ids that leave a stream as it was, by the number of what the stream remembers: nearly all of them do. They are kept for
 * all streams of a tokenizer with the same options, since to ask Rust costs many times what a look-up does.
 */
export type SettledTexts = Map<number, string>[]

/** How many texts are kept for one state, and how long they may be: more than a vocabulary has, less than a hostile one could take. */
const maxTexts = 1 << 18
const maxLength = 64

/** A stream over the native one. */
export function decodeStream(stream: NativeDecodeStream, settled: SettledTexts): DecodeStream {
  let [state, texts] = [-1, none]
  const follow = (): void => {
    state = stream.state()
    texts = state < 0 ? none : (settled[state] ??= new Map<number, string>())
  }
  follow()
  const pushOne = (id: number): string => {
    const before = state
    const text = callNative(() => stream.pushId(id))
    follow()
    if (state === before && state >= 0 && text.length <= maxLength && texts.size < maxTexts) texts.set(id, text)
    return text
  }

  return {
    push: (ids) => {
      if (typeof ids === 'number') {
        const known = texts.get(ids)
        if (known !== undefined) return known
        if (isId(ids)) return pushOne(ids)
      }
      const flat = toIds('ids', typeof ids === 'number' ? [ids] : ids)
      const text = callNative(() => stream.push(flat))
      follow()
      return text
    },
    end: () => {
      const text = callNative(() => stream.end())
      follow()
      return text
    },
  }
}

/** Where a stream finds nothing. Never written to. */
const none = new Map<number, string>()

function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    new Uint8Array(buffer)
    return false
  } catch {
    return true
  }
}

/** Whether a number can be an id. */
export const isId = (id: number): boolean => Number.isInteger(id) && id >= 0 && id < 2 ** 32

/** Ids as one typed array; `Uint32Array.from` alone would turn -1 and 1.5 into other ids in silence. */
export function toIds(param: string, ids: ArrayLike<number>): Uint32Array {
  if (ids instanceof Uint32Array) {
    if (ids.length === 0 && isDetached(ids.buffer))
      throw invalidArgument(param, 'an array whose memory was not transferred', ids)
    return unshared(ids)
  }
  if (typeof ids !== 'object' || typeof (ids as ArrayLike<number> | null)?.length !== 'number') {
    throw invalidArgument(param, 'an array of token ids', ids)
  }
  const flat = new Uint32Array(ids.length)
  for (let i = 0; i < ids.length; i += 1) {
    const id = ids[i]
    if (typeof id !== 'number' || !isId(id)) throw invalidArgument(`${param}[${i}]`, 'a token id', describe(id))
    flat[i] = id
  }
  return flat
}
