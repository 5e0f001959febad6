import { describe, expect, test } from 'vitest'
import { describe as show } from '../src/errors'
import { checkOptions, kinds, nearest, toJson } from '../src/options'

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

describe('checkOptions', () => {
  const shape = { count: kinds.count, name: kinds.string }
  const check = (options: unknown) => () => checkOptions('call()', options, shape)

  test.each([undefined, {}, { count: 1 }, { count: undefined, name: '' }, Object.create({ other: 1, count: 'x' })])(
    'takes %j',
    (options) => {
      expect(check(options)).not.toThrow()
    },
  )

  test.each([
    [null, 'the options of call()'],
    [[], 'the options of call()'],
    [{ cuont: 1 }, 'did you mean "count"'],
    [{ constructor: 1 }, 'constructor'],
    [{ count: 0 }, 'an integer of at least 1'],
    [Object.assign(Object.create({ count: 1 }) as object, { count: 'x' }), 'an integer of at least 1'],
  ])('refuses %j', (options, reason) => {
    expect(check(options)).toThrow(expect.objectContaining({ code: 'invalid_argument' }) as Error)
    expect(check(options)).toThrow(reason)
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
