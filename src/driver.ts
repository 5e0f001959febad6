/** The JS side of a native engine: one wake-up for all that happens, the runs, and what keeps Node alive. */

import { randomUUID } from 'node:crypto'
import { isMainThread } from 'node:worker_threads'
import { callNative, runCall, tell, type Call } from './call'
import type { EngineOptions, LoadProgress, LogRecord } from './engine'
import { PillionError, errorFromJson } from './errors'
import { GenerationRun, type RunHost } from './generation'
import { native, type NativeEngine } from './native'
import { readResults, type PackedInputs, type PredictResult } from './predict'
import { readEvents, type EngineEvent, type RunOutput } from './stream'

type Listeners = Pick<EngineOptions, 'onProgress' | 'logger'>

// What a wake-up brings is written here, if it fits: most bring a few tokens, for which an array each time is more work than they are.
const room = new Uint32Array(4096)

interface PendingCall {
  resolve(results: PredictResult[]): void
  reject(reason: unknown): void
}

/** Engines with something to do. Only these are held: one that is idle and forgotten is collected, and its model freed. */
const busyEngines = new Set<Driver>()

/** The JS side of a native engine: the one wake-up, the runs, and what keeps Node alive. */
export class Driver implements RunHost {
  readonly native: NativeEngine
  readonly ready: Promise<void>
  readonly #closed: Promise<void>
  readonly #runs = new Map<number, GenerationRun>()
  readonly #ids = new Map<GenerationRun, number>()
  readonly #calls = new Map<number, PendingCall>()
  readonly #onProgress: Listeners['onProgress']
  readonly #logger: Listeners['logger']
  #nextRun = 0
  #state: 'loading' | 'ready' | 'closing' | 'closed' = 'loading'
  #referenced = false
  #settleReady!: { resolve(): void; reject(reason: unknown): void }
  #settleClosed!: () => void

  /** Begins to load what `load`, JSON for Rust, names. */
  constructor(load: string, listeners: Listeners) {
    this.#onProgress = listeners.onProgress
    this.#logger = listeners.logger
    this.ready = new Promise((resolve, reject) => (this.#settleReady = { resolve, reject }))
    this.ready.catch(() => undefined)
    this.#closed = new Promise((resolve) => (this.#settleClosed = resolve))
    const { NativeEngine } = native()
    const wake = Driver.#waker(this)
    guardExit()
    this.native = callNative(() => new NativeEngine(load, wake))
    this.#hold()
  }

  /**
   * What native code holds for as long as the engine lives, and must not keep the engine alive by. Made in a scope of its own: a
   * function keeps what any function beside it needs, so that in the constructor it would keep `this`.
   */
  static #waker(driver: Driver): () => void {
    const weak = new WeakRef(driver)
    return () => {
      const driver = weak.deref()
      if (driver !== undefined) driver.#drain()
    }
  }

  /** A new run, and its number in Rust; none if the run has failed already. */
  begin(request: Call & { readonly requestId?: string | undefined }): [GenerationRun, number | undefined] {
    const run = new GenerationRun(this, request.requestId ?? `run-${randomUUID()}`, request.signal)
    if (request.signal?.aborted === true) {
      run.fail(request.signal.reason)
      return [run, undefined]
    }
    const id = this.#number()
    this.#runs.set(id, run)
    this.#ids.set(run, id)
    this.#hold()
    return [run, id]
  }

  /** Gives the inputs to the model, and their results when all are there. */
  async predict(inputs: PackedInputs, call: Call | undefined): Promise<PredictResult[]> {
    const id = this.#number()
    const results = new Promise<PredictResult[]>((resolve, reject) => this.#calls.set(id, { resolve, reject }))
    this.#hold()
    const { items, names, table, data } = inputs
    // Rust keeps the time. Nobody is told here of a call that was given up.
    const start = async (): Promise<PredictResult[]> => {
      this.native.predict(id, `call-${randomUUID()}`, items, names, table, data, call?.timeoutMs)
      return await results
    }
    try {
      return await runCall({ signal: call?.signal }, start, () => this.native.abort(id))
    } finally {
      this.#calls.delete(id)
      this.#hold()
    }
  }

  /** A number for a run that is no other's. */
  #number(): number {
    let id = this.#nextRun
    while (this.#runs.has(id) || this.#calls.has(id)) id = (id + 1) >>> 0
    this.#nextRun = (id + 1) >>> 0
    return id
  }

  abort(run: GenerationRun): void {
    const id = this.#ids.get(run)
    if (id !== undefined) this.native.abort(id)
  }

  forget(run: GenerationRun): void {
    const id = this.#ids.get(run)
    if (id === undefined) return
    this.#ids.delete(run)
    this.#runs.delete(id)
    this.#hold()
  }

  async close(drainMs: number): Promise<void> {
    if (this.#state !== 'closed') {
      this.#state = 'closing'
      this.#hold()
      this.native.close(drainMs)
    }
    await this.#closed
  }

  #drain(): void {
    const record = this.native.drain(room)
    readEvents(typeof record === 'number' ? room.subarray(0, record) : record, (event) => this.#handle(event))
  }

  #handle(event: EngineEvent): void {
    switch (event.kind) {
      case 'run':
        this.#runs.get(event.run)?.accept(event.output)
        this.#calls.get(event.run)?.reject(callEnded(event.output))
        break
      case 'prediction': {
        // Also of a call that was given up: nobody else would take them.
        const large = event.numLarge === 0 ? [] : this.native.takeTensors(event.run)
        this.#calls.get(event.run)?.resolve(readResults(event.json, event.data, large))
        break
      }
      case 'progress':
        tell(this.#onProgress, JSON.parse(event.json) as LoadProgress)
        break
      case 'log':
        tell(this.#logger, JSON.parse(event.json) as LogRecord)
        break
      case 'ready':
        if (this.#state === 'loading') this.#state = 'ready'
        native().guardExit()
        this.#settleReady.resolve()
        break
      case 'load-failed':
        this.#settleReady.reject(errorFromJson(event.json))
        this.#end()
        break
      case 'closed':
        this.#end()
        break
    }
    this.#hold()
  }

  #end(): void {
    this.#state = 'closed'
    const error = new PillionError({ code: 'closed', message: 'the engine was closed' })
    this.#settleReady.reject(error)
    for (const run of [...this.#runs.values()]) run.fail(error)
    for (const call of [...this.#calls.values()]) call.reject(error)
    this.#settleClosed()
  }

  /** Node stays alive, and this engine with it, while it loads, runs or closes. */
  #hold(): void {
    const busy = this.#state === 'loading' || this.#state === 'closing' || this.#runs.size + this.#calls.size > 0
    if (busy === this.#referenced) return
    this.#referenced = busy
    this.native.setReferenced(busy)
    if (busy) busyEngines.add(this)
    else busyEngines.delete(this)
  }
}

/** What a call that ended without results ended with: an error, or its end by `close()`. */
function callEnded(output: RunOutput): PillionError {
  if (output.error !== undefined) return errorFromJson(output.error)
  return new PillionError({ code: 'closed', message: 'the engine was closed before the results were there' })
}

let exitIsGuarded = false

// Once more at the very end, to be the first of what runs then. A worker's end is not the process's.
function guardExit(): void {
  if (exitIsGuarded || !isMainThread) return
  exitIsGuarded = true
  process.once('exit', (code) => native().guardExit(code))
}
