import { PillionError, errorFromJson } from './errors'
import type { RunOutput } from './stream'

/** Why an answer ended. An error is never one of these; errors are thrown. */
export type FinishReason =
  /** An end-of-text token or a stop string; `stopMatch` says which. */
  | 'stop'
  /** `maxTokens` or the model's context. */
  | 'length'
  /** The model asked for tools. */
  | 'tool-calls'
  /** The caller ended it by `break`, `abort()` or `engine.close()`. */
  | 'abort'

/** What a request used, in tokens. */
export interface Usage {
  /** Tokens of the prompt. */
  readonly promptTokens: number
  /** Tokens of the answer, an end-of-text token included. */
  readonly completionTokens: number
  /** Both. */
  readonly totalTokens: number
  /** Tokens of the prompt that were in the cache already. */
  readonly cachedPromptTokens: number
  /** Tokens of the answer that are reasoning. */
  readonly reasoningTokens: number
}

/** How an answer ended. */
export interface Finish {
  /** Why. */
  readonly finishReason: FinishReason
  /** The stop string, or the id of the end-of-text token, if the reason is `'stop'`. */
  readonly stopMatch?: string | number
  /** What it used. */
  readonly usage: Usage
  /** Milliseconds: `tokenizeMs`, `queueMs`, and from the call on `firstTokenMs` and `totalMs`. */
  readonly timings: Readonly<Record<string, number>>
}

/** Tokens as flat columns. */
export interface TokenData {
  /** The tokens, an end-of-text token included. */
  readonly ids: Uint32Array
  /** The log probability of each token; with `logprobs` only. */
  readonly logprobs?: Float32Array
  /** The likeliest tokens at each position, `logprobs` of them per token. */
  readonly topIds?: Uint32Array
  /** As `topIds`. */
  readonly topLogprobs?: Float32Array
}

/** One part of an answer. */
export type Part =
  /** Text since the last part: never half of a character, one part per run and wake-up at most. */
  | { readonly type: 'text-delta'; readonly text: string; readonly tokens?: TokenData }
  /** The end; the last part. */
  | ({ readonly type: 'finish' } & Finish)

/** A whole answer. */
export interface Result extends Finish {
  /** The caller's id, or one of ours. */
  readonly requestId: string
  /** The text. */
  readonly text: string
  /** The tokens, if they were asked for. */
  readonly tokens?: TokenData
}

/**
 * A running request. Reading it is optional: `await run.text` without a loop runs at full speed. As an iterable it can be read once;
 * leaving the loop early ends the work. The promises always settle, and never cause an unhandled rejection. Not thenable itself.
 */
export interface Generation extends AsyncIterable<Part>, AsyncDisposable {
  /** The caller's id, or one of ours. */
  readonly requestId: string
  /** The text deltas alone; reading it counts as reading the run. */
  readonly textStream: AsyncIterable<string>
  /** The whole text. */
  readonly text: Promise<string>
  /** What it used. */
  readonly usage: Promise<Usage>
  /** Why it ended. */
  readonly finishReason: Promise<FinishReason>
  /** Everything. */
  readonly result: Promise<Result>
  /** What there is now; readable at all times, also after an error. */
  readonly partial: { readonly text: string; readonly usage: Usage }
  /**
   * Ends the work; the promises resolve with finish reason `'abort'` and what there is. After the end this does nothing.
   * @param reason taken so that the function can stand where an `AbortController`'s does; it changes nothing
   */
  abort(reason?: unknown): void
}

/** What a run needs of its engine. */
export interface RunHost {
  /** Asks Rust to end the run; its last output follows soon. */
  abort(run: GenerationRun): void
  /** Forgets a run that has settled. */
  forget(run: GenerationRun): void
}

/** A run, driven by the engine's wake-ups. */
export class GenerationRun implements Generation {
  readonly requestId: string
  readonly result: Promise<Result>
  readonly text: Promise<string>
  readonly usage: Promise<Usage>
  readonly finishReason: Promise<FinishReason>
  readonly #host: RunHost
  readonly #signal: AbortSignal | undefined
  readonly #onAbort = (): void => this.#fail(this.#signal?.reason, true)
  #settle!: { resolve(result: Result): void; reject(reason: unknown): void }
  #outcome: { readonly result: Result } | { readonly reason: unknown; readonly now: boolean } | undefined
  #text = ''
  #tokens: TokenData[] = []
  #promptTokens = 0
  #completionTokens = 0
  #unread = ''
  #unreadTokens: TokenData[] = []
  #wakeReader: (() => void) | undefined
  #reading = false

  constructor(host: RunHost, requestId: string, signal: AbortSignal | undefined) {
    this.#host = host
    this.requestId = requestId
    this.#signal = signal
    this.result = new Promise((resolve, reject) => (this.#settle = { resolve, reject }))
    this.text = this.result.then((result) => result.text)
    this.usage = this.result.then((result) => result.usage)
    this.finishReason = this.result.then((result) => result.finishReason)
    // A run whose promises nobody reads may fail in silence: the error still reaches whoever reads any of them.
    for (const promise of [this.result, this.text, this.usage, this.finishReason]) promise.catch(() => undefined)
    signal?.addEventListener('abort', this.#onAbort)
  }

  get partial(): { readonly text: string; readonly usage: Usage } {
    return { text: this.#text, usage: this.#usage() }
  }

  get textStream(): AsyncIterable<string> {
    return { [Symbol.asyncIterator]: () => textOf(this[Symbol.asyncIterator]()) }
  }

  abort(_reason?: unknown): void {
    if (this.#outcome === undefined) this.#host.abort(this)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.abort()
    await this.result.then(ignore, ignore)
  }

  [Symbol.asyncIterator](): AsyncIterator<Part> {
    if (this.#reading) {
      throw new PillionError({
        code: 'invalid_argument',
        message: `run ${this.requestId} is being read already, and can be read once`,
        requestId: this.requestId,
        remedy: 'await run.text or run.result for the whole answer, or read run.partial',
      })
    }
    this.#reading = true
    let done = false
    return {
      next: async (): Promise<IteratorResult<Part>> => {
        if (done) return ended
        try {
          const part = await this.#next()
          done = part.type === 'finish'
          return { done: false, value: part }
        } catch (error) {
          done = true
          throw error
        }
      },
      return: (): Promise<IteratorResult<Part>> => {
        done = true
        this.abort()
        return Promise.resolve(ended)
      },
    }
  }

  /** Takes what a wake-up brought. After the run has settled this does nothing. */
  accept(output: RunOutput): void {
    if (this.#outcome !== undefined) return
    this.#text += output.text
    this.#promptTokens = Math.max(this.#promptTokens, output.promptTokens)
    this.#completionTokens = Math.max(this.#completionTokens, output.completionTokens)
    if (output.tokens !== undefined) this.#tokens.push(output.tokens)
    if (output.finish !== undefined) this.#finish(JSON.parse(output.finish) as Finish)
    else if (output.error !== undefined) this.#fail(errorFromJson(output.error), false)
    // Unread deltas are kept for a reader that may still come; they are dropped with the run.
    this.#unread += output.text
    if (output.tokens !== undefined) this.#unreadTokens.push(output.tokens)
    this.#wake()
  }

  /** Ends the run with an error that arose on this side. */
  fail(reason: unknown): void {
    this.#fail(reason, false)
  }

  async #next(): Promise<Part> {
    for (;;) {
      const outcome = this.#outcome
      // The signal's reason overtakes text that was not read yet; any other end comes after it.
      if (outcome !== undefined && 'reason' in outcome && outcome.now) throw outcome.reason
      const delta = this.#takeUnread()
      if (delta !== undefined) return delta
      if (outcome !== undefined) {
        if ('reason' in outcome) throw outcome.reason
        const { finishReason, stopMatch, usage, timings } = outcome.result
        return { type: 'finish', finishReason, ...(stopMatch === undefined ? {} : { stopMatch }), usage, timings }
      }
      await new Promise<void>((resume) => (this.#wakeReader = resume))
    }
  }

  #takeUnread(): Part | undefined {
    if (this.#unread === '' && this.#unreadTokens.length === 0) return undefined
    const text = this.#unread
    const tokens = joinTokens(this.#unreadTokens)
    this.#unread = ''
    this.#unreadTokens = []
    return { type: 'text-delta', text, ...(tokens === undefined ? {} : { tokens }) }
  }

  #finish(finish: Finish): void {
    const tokens = joinTokens(this.#tokens)
    const result = {
      requestId: this.requestId,
      text: this.#text,
      ...finish,
      ...(tokens === undefined ? {} : { tokens }),
    }
    this.#promptTokens = finish.usage.promptTokens
    this.#completionTokens = finish.usage.completionTokens
    this.#outcome = { result }
    this.#end()
    this.#settle.resolve(result)
  }

  #fail(reason: unknown, now: boolean): void {
    if (this.#outcome !== undefined) return
    if (now) this.#host.abort(this)
    this.#outcome = { reason, now }
    this.#end()
    this.#settle.reject(reason)
    this.#wake()
  }

  #end(): void {
    this.#signal?.removeEventListener('abort', this.#onAbort)
    this.#host.forget(this)
  }

  #wake(): void {
    const wake = this.#wakeReader
    this.#wakeReader = undefined
    wake?.()
  }

  #usage(): Usage {
    const outcome = this.#outcome
    if (outcome !== undefined && 'result' in outcome) return outcome.result.usage
    return {
      promptTokens: this.#promptTokens,
      completionTokens: this.#completionTokens,
      totalTokens: this.#promptTokens + this.#completionTokens,
      cachedPromptTokens: 0,
      reasoningTokens: 0,
    }
  }
}

const ended: IteratorReturnResult<undefined> = { done: true, value: undefined }
const ignore = (): void => undefined

function textOf(parts: AsyncIterator<Part>): AsyncIterator<string> {
  return {
    next: async () => {
      for (;;) {
        const next = await parts.next()
        if (next.done === true) return ended
        if (next.value.type === 'text-delta' && next.value.text !== '') return { done: false, value: next.value.text }
      }
    },
    return: async () => {
      await parts.return?.()
      return ended
    },
  }
}

function joinTokens(chunks: readonly TokenData[]): TokenData | undefined {
  const [first] = chunks
  if (first === undefined || chunks.length === 1) return first
  const logprobs = joinFloats(chunks.map((chunk) => chunk.logprobs))
  const topIds = joinIntegers(chunks.map((chunk) => chunk.topIds))
  const topLogprobs = joinFloats(chunks.map((chunk) => chunk.topLogprobs))
  return {
    ids: joinIntegers(chunks.map((chunk) => chunk.ids)) ?? new Uint32Array(),
    ...(logprobs === undefined ? {} : { logprobs }),
    ...(topIds === undefined ? {} : { topIds }),
    ...(topLogprobs === undefined ? {} : { topLogprobs }),
  }
}

function joinIntegers(chunks: readonly (Uint32Array | undefined)[]): Uint32Array | undefined {
  return join(chunks, (length) => new Uint32Array(length))
}

function joinFloats(chunks: readonly (Float32Array | undefined)[]): Float32Array | undefined {
  return join(chunks, (length) => new Float32Array(length))
}

function join<T extends Uint32Array | Float32Array>(
  chunks: readonly (T | undefined)[],
  make: (length: number) => T,
): T | undefined {
  const present = chunks.filter((chunk) => chunk !== undefined)
  if (present.length === 0) return undefined
  const all = make(present.reduce((length, chunk) => length + chunk.length, 0))
  let at = 0
  for (const chunk of present) {
    all.set(chunk, at)
    at += chunk.length
  }
  return all
}
