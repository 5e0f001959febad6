// A package in its own process, as the benchmark talks to it.
import { fork, type ChildProcess } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const here = path.dirname(fileURLToPath(import.meta.url))

/** A package that takes part. */
export type PackageName =
  | 'pillion'
  | 'tokenizers'
  | '@huggingface/tokenizers'
  | 'kitoken'
  | 'gpt-tokenizer'
  | 'ai-tokenizer'
  | 'tiktoken'
  | 'tiktoken-node'

/** A vocabulary, and which packages have it. */
export interface Vocabulary {
  readonly name: string
  /** Its `tokenizer.json`. */
  readonly file: string
  /** Its name among OpenAI's, for the packages that know only those. */
  readonly ranks?: string | undefined
  readonly packages: readonly PackageName[]
}

/** What encoding documents gives back. */
export interface Timed {
  /** Milliseconds of each pass. */
  readonly times: readonly number[]
  readonly tokens: number
  readonly digest: string
}

/** What one hard text gives back. */
export interface Hard {
  readonly ms: number
  /** The longest time that the JS thread did nothing else. */
  readonly stall: number
  readonly tokens: number
  readonly digest: string
}

/** Cost by position in a stream. */
export interface ByLength {
  readonly out: readonly { readonly to: number; readonly ns: number }[]
  readonly tokens: number
}

interface Commands {
  load(options: object): { ms: number; engine?: string; has: string[] }
  first(options: { text: string }): { ms: number; tokens: number }
  each(options: { texts: readonly string[]; passes?: number; checked?: number }): Timed
  batch(options: { texts: readonly string[]; passes?: number }): Timed
  hard(options: { text: string }): Hard
  calls(options: { texts: readonly string[]; passes: number }): { times: number[]; tokens: number }
  stream(options: { text: string; marks: readonly number[] }): ByLength
  redecode(options: { text: string; marks: readonly number[]; calls: number }): ByLength
  memory(options: { megabytes: number; samples: number; seed: number; byBatch: boolean }): {
    out: { mb: number; rss: number }[]
  }
}

/** Where everything lies. */
export interface Places {
  /** Folder with the installed peers. */
  readonly packages: string
  /** Our built package's entry. */
  readonly entry: string
  /** What is measured: time that passes, or time of the processor, for busy machines. */
  readonly clock: 'wall' | 'cpu'
}

/** One process with one package and one vocabulary loaded. */
export class Peer {
  readonly package: PackageName
  readonly #child: ChildProcess
  #next = 0

  private constructor(name: PackageName, child: ChildProcess) {
    this.package = name
    this.#child = child
  }

  /** Starts the process and loads. @param cpu the only core that it may use, where the system has `taskset` */
  static async start(
    name: PackageName,
    vocabulary: Vocabulary,
    places: Places,
    cpu?: number,
  ): Promise<Peer & { readonly loadMs: number }> {
    const script = path.join(here, 'peer-process.mjs')
    const exec =
      cpu === undefined ? {} : { execPath: 'taskset', execArgv: ['-c', String(cpu), process.execPath, '--expose-gc'] }
    const child = fork(script, [places.packages, places.clock], {
      serialization: 'advanced',
      execArgv: ['--expose-gc'],
      ...exec,
    })
    const peer = new Peer(name, child)
    const { ms } = await peer.ask('load', {
      package: name,
      file: vocabulary.file,
      ranks: vocabulary.ranks,
      entry: places.entry,
    })
    return Object.assign(peer, { loadMs: ms })
  }

  /** Runs a command there. @param limitMs after which the process is killed and the answer is an error */
  ask<C extends keyof Commands>(
    command: C,
    options: Parameters<Commands[C]>[0],
    limitMs = 600_000,
  ): Promise<ReturnType<Commands[C]>> {
    const id = this.#next
    this.#next += 1
    return new Promise((resolve, reject) => {
      const fail = (reason: string): void => {
        done()
        reject(new Error(`${this.package}, ${command}: ${reason}`))
      }
      const timer = setTimeout(() => {
        this.#child.kill('SIGKILL')
        fail(`took over ${limitMs / 1000} s`)
      }, limitMs)
      const onExit = (code: number | null, signal: string | null): void =>
        fail(`ended with ${signal ?? code ?? 'no code'}`)
      const onMessage = (message: { id: number; answer?: unknown; error?: string }): void => {
        if (message.id !== id) return
        if (message.error !== undefined) {
          fail(message.error)
          return
        }
        done()
        resolve(message.answer as ReturnType<Commands[C]>)
      }
      const done = (): void => {
        clearTimeout(timer)
        this.#child.off('exit', onExit).off('message', onMessage)
      }
      this.#child.on('exit', onExit).on('message', onMessage)
      this.#child.send({ id, command, options })
    })
  }

  /** Ends the process. */
  stop(): void {
    this.#child.kill()
  }
}
