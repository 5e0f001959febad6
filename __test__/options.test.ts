import { describe, expect, test } from 'vitest'
import { describe as show } from '../src/errors'
import { nearest, toJson } from '../src/options'

describe('nearest', () => {
  const known = ['maxTokens', 'temperature', 'topP', 'topK', 'stop', 'signal']

  test.each([
    ['max_tokens', 'maxTokens'],
    ['maxToken', 'maxTokens'],
    ['temprature', 'temperature'],
    ['top_p', 'topP'],
    ['Stop', 'stop'],
    ['sginal', 'signal'],
    ['completelyElse', undefined],
    ['', undefined],
  ])('%s -> %s', (name, expected) => {
    expect(nearest(name, known)).toBe(expected)
  })

  test('a very long name costs little and is near to nothing', () => {
    expect(nearest('x'.repeat(1_000_000), known)).toBeUndefined()
  })
})

describe('toJson', () => {
  test.each([
    ['plain', '"plain"'],
    ['\ud800', '"\ufffd"'],
    [{ '\ud800': ['a\udfff', '🌍'] }, '{"\ufffd":["a\ufffd","🌍"]}'],
    ['a literal \\ud800', '"a literal \\\\ud800"'],
    [{ a: undefined, b: null, c: [1, true] }, '{"b":null,"c":[1,true]}'],
  ])('%j', (value, json) => {
    expect(toJson(value)).toBe(json)
  })
})

describe('a value in a message', () => {
  test.each([
    ['text', '"text"'],
    ['x'.repeat(100), `"${'x'.repeat(80)}..."`],
    [7, '7'],
    [undefined, 'undefined'],
    [null, 'null'],
    [10n, '10'],
    [Symbol('s'), 'Symbol(s)'],
    [[1, 2], 'an array of 2'],
    [{}, 'an object'],
    [Object.create(null), 'an object'],
    [new Map(), 'a Map'],
    [() => 1, 'a function'],
  ])('%#', (value, expected) => {
    expect(show(value)).toBe(expected)
  })
})
