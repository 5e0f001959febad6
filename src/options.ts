/** Checks of what a caller passed: an unknown or wrongly typed option is refused at once, by name. `undefined` means the default. */

import { PillionError, describe, invalidArgument } from './errors'

/** What an option may be: what is expected, in words, and the test. */
export interface Kind {
  readonly expected: string
  test(value: unknown): boolean
}

function kind(expected: string, test: (value: unknown) => boolean): Kind {
  return { expected, test }
}

const isText = (value: unknown): boolean => typeof value === 'string' || value instanceof Uint8Array

/** The kinds that options have. Ranges are checked in Rust, once; here only what JSON could not carry faithfully. */
export const kinds = {
  string: kind('a string', (v) => typeof v === 'string'),
  boolean: kind('true or false', (v) => typeof v === 'boolean'),
  // JSON would turn NaN and the infinities into null, that is, into the default.
  number: kind('a finite number', (v) => Number.isFinite(v)),
  count: kind('an integer of at least 1', (v) => Number.isSafeInteger(v) && (v as number) >= 1),
  natural: kind('an integer from 0', (v) => Number.isSafeInteger(v) && (v as number) >= 0),
  id: kind(
    'an integer from 0 to 2,147,483,647',
    (v) => Number.isInteger(v) && (v as number) >= 0 && (v as number) < 2 ** 31,
  ),
  milliseconds: kind('a number of milliseconds from 0', (v) => Number.isFinite(v) && (v as number) >= 0),
  function: kind('a function', (v) => typeof v === 'function'),
  object: kind('an object', (v) => typeof v === 'object' && v !== null && !Array.isArray(v)),
  array: kind('an array', Array.isArray),
  text: kind('a string or a Uint8Array with UTF-8', isText),
  bytes: kind('a Uint8Array with UTF-8', (v) => v instanceof Uint8Array),
  signal: kind('an AbortSignal', (v) => v instanceof AbortSignal),
  strings: kind('a string or an array of strings', (v) => typeof v === 'string' || isStrings(v)),
  countOrStrings: kind(
    'an integer of at least 1 or an array of strings',
    (v) => isStrings(v) || (Number.isSafeInteger(v) && (v as number) >= 1),
  ),
  booleanOrStrings: kind('true, false or an array of strings', (v) => typeof v === 'boolean' || isStrings(v)),
  any: kind('a value', () => true),
} as const satisfies Record<string, Kind>

function isStrings(value: unknown): boolean {
  return Array.isArray(value) && value.every((item) => typeof item === 'string')
}

/** One of the given words. */
export function oneOf(...words: readonly string[]): Kind {
  return kind(words.map((word) => `'${word}'`).join(' or '), (v) => words.includes(v as string))
}

/** The options that a call takes, each with its kind. */
export type Shape = Readonly<Record<string, Kind>>

/** What every long call takes. */
export const callShape = { signal: kinds.signal, timeoutMs: kinds.milliseconds } as const satisfies Shape

/**
 * Checks an options object against its shape.
 * @param where how the call or option is called in messages, such as `encode()`
 */
export function checkOptions(where: string, options: unknown, shape: Shape): void {
  if (options === undefined) return
  if (!kinds.object.test(options)) throw invalidArgument(`the options of ${where}`, 'an object', options)
  // Not `Object.entries`: this runs in every call, and so must make nothing and be compiled soon.
  for (const name in options as object) {
    const expected = Object.hasOwn(shape, name) ? shape[name] : undefined
    const value: unknown = (options as Record<string, unknown>)[name]
    if (expected !== undefined && (value === undefined || expected.test(value))) continue
    // What is inherited is not refused, such as what somebody has added to all objects.
    if (!Object.hasOwn(options as object, name)) continue
    if (expected === undefined) throw unknownOption(where, name, Object.keys(shape))
    throw invalidArgument(name, expected.expected, value)
  }
}

/** Checks one positional argument. */
export function checkArgument(name: string, value: unknown, expected: Kind): void {
  if (!expected.test(value)) throw invalidArgument(name, expected.expected, value)
}

function unknownOption(where: string, name: string, known: readonly string[]): PillionError {
  const near = nearest(name, known)
  return new PillionError({
    code: 'invalid_argument',
    message: `${where} has no option ${describe(name)}`,
    param: name,
    remedy: near === undefined ? `the options are ${known.join(', ')}` : `did you mean ${describe(near)}?`,
  })
}

/** The known name that differs least, if it is close enough to be what was meant. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined
  let bestDistance = Math.max(2, Math.floor(Math.min(name.length, 30) / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(plain(name), plain(candidate))
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance]
  }
  return best
}

// `max_tokens` and `maxtokens` are `maxTokens` to those who come from Python.
function plain(name: string): string {
  return name.slice(0, 64).replaceAll(/[_-]/g, '').toLowerCase()
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i += 1) {
    const current = [i]
    for (let j = 1; j <= b.length; j += 1) {
      const change = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      current.push(Math.min(change, (previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1))
    }
    previous = current
  }
  return previous[b.length] ?? 0
}

/**
 * JSON for Rust. A lone surrogate cannot be UTF-8; it becomes U+FFFD, as in every text that enters.
 * `JSON.stringify` writes only lone surrogates as `\ud...`, so that the slow path is rare.
 */
export function toJson(value: unknown): string {
  const json = JSON.stringify(value)
  return /\\ud[89a-f]/.test(json) ? JSON.stringify(wellFormed(value)) : json
}

function wellFormed(value: unknown): unknown {
  if (typeof value === 'string') return value.toWellFormed()
  if (Array.isArray(value)) return value.map(wellFormed)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [wellFormed(k), wellFormed(v)]))
}
