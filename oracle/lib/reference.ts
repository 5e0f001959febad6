// The reference, npm `tokenizers`, in a process of its own: its memory and its threads stay out of ours, and a crash of it is an error.
import { fork, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { cache, hash } from './packages'

/** The tokens of some texts: row `i` has `lengths[i]` ids, and two offsets for each. */
export interface Rows {
  readonly lengths: Uint32Array
  readonly ids: Uint32Array
  /** Start and end of each token in code points. */
  readonly offsets: Uint32Array
}

/** A question to the reference. */
export type Question =
  | { readonly kind: 'encode'; readonly texts: readonly string[]; readonly addSpecialTokens: boolean }
  | {
      readonly kind: 'decode'
      readonly lengths: Uint32Array
      readonly ids: Uint32Array
      readonly skipSpecialTokens: boolean
    }

/** Its answer: rows to `encode`, texts to `decode`. */
export type Answer<Q extends Question> = Q extends { kind: 'encode' } ? Rows : string[]

interface Pending {
  resolve(answer: unknown): void
  reject(error: Error): void
}

/** The reference with one tokenizer file loaded. Digests of its answers are kept in the cache, so that it is asked once. */
export class Reference {
  readonly #packages: string
  readonly #file: string
  readonly #answersFile: string
  readonly #digests: Map<string, string>
  readonly #pending = new Map<number, Pending>()
  #child: ChildProcess | undefined
  #next = 0
  /** How many questions the cache answered. */
  fromCache = 0

  /** @param packages where the package `tokenizers` is installed */
  constructor(packages: string, file: string) {
    this.#packages = packages
    this.#file = file
    const { version } = JSON.parse(
      readFileSync(path.join(packages, 'node_modules/tokenizers/package.json'), 'utf8'),
    ) as { version: string }
    this.#answersFile = path.join(cache, `oracle-answers-${version}-2`, `${hash(readFileSync(file))}.json`)
    const known = existsSync(this.#answersFile)
      ? (JSON.parse(readFileSync(this.#answersFile, 'utf8')) as [string, string][])
      : []
    this.#digests = new Map(known)
  }

  /** The digest of the answer, from the cache if it was asked before. */
  async digest(question: Question): Promise<string> {
    const key = digestOfQuestion(question)
    const known = this.#digests.get(key)
    if (known !== undefined) {
      this.fromCache += 1
      return known
    }
    const digest = digestOfAnswer(await this.ask(question))
    this.#digests.set(key, digest)
    return digest
  }

  /** The answer itself. */
  ask<Q extends Question>(question: Q): Promise<Answer<Q>> {
    const child = (this.#child ??= this.#start())
    const id = this.#next
    this.#next += 1
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve: resolve, reject })
      child.send({ id, question })
    })
  }

  /** Writes what was learned into the cache. */
  save(): void {
    mkdirSync(path.dirname(this.#answersFile), { recursive: true })
    const staging = `${this.#answersFile}.${process.pid}`
    writeFileSync(staging, JSON.stringify([...this.#digests]))
    renameSync(staging, this.#answersFile)
  }

  /** Saves and ends the process. */
  close(): void {
    this.save()
    this.#child?.kill()
  }

  #start(): ChildProcess {
    const script = fileURLToPath(new URL('reference-process.mjs', import.meta.url))
    const child = fork(script, [this.#packages, this.#file], { serialization: 'advanced', execArgv: [] })
    child.on('message', (message: { id: number; answer?: unknown; error?: string }) => {
      const pending = this.#pending.get(message.id)
      this.#pending.delete(message.id)
      if (message.error === undefined) pending?.resolve(message.answer)
      else pending?.reject(new Error(`the reference failed: ${message.error}`))
    })
    child.on('exit', (code, signal) => {
      for (const pending of this.#pending.values())
        pending.reject(new Error(`the reference ended with ${signal ?? code ?? 'no code'}`))
      this.#pending.clear()
    })
    return child
  }
}

/** Equal for equal answers, and for no others. */
export function digestOfAnswer(answer: Rows | readonly string[]): string {
  const digest = createHash('sha1')
  if (!('ids' in answer)) {
    updateTexts(digest, answer)
  } else {
    for (const part of [answer.lengths, answer.ids, answer.offsets]) digest.update(bytes(part))
  }
  return digest.digest('base64url').slice(0, 22)
}

function digestOfQuestion(question: Question): string {
  const digest = createHash('sha1')
  if (question.kind === 'encode') {
    digest.update(`encode ${String(question.addSpecialTokens)}`)
    updateTexts(digest, question.texts)
  } else {
    digest
      .update(`decode ${String(question.skipSpecialTokens)}`)
      .update(bytes(question.lengths))
      .update(bytes(question.ids))
  }
  return digest.digest('base64url').slice(0, 22)
}

function updateTexts(digest: ReturnType<typeof createHash>, texts: readonly string[]): void {
  digest.update(bytes(Uint32Array.from(texts, (text) => text.length)))
  // UTF-16, in which a lone surrogate is not lost.
  digest.update(Buffer.from(texts.join(''), 'utf16le'))
}

function bytes(numbers: Uint32Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)
}
