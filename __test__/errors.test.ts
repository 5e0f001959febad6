import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { PillionError, PythonError, WorkerLostError } from '../src/index'
import { errorFromJson, errorFromNative, retryableByCode } from '../src/errors'
import { root, runNode } from './helpers'

describe('the list of codes', () => {
  const source = readFileSync(join(root, 'crates/pillion-core/src/error.rs'), 'utf8')
  const rust = [...source.matchAll(/= "(\w+)", retryable (\w+);/g)]

  test('is the same in Rust and TypeScript, with the same answer to "retry?"', () => {
    expect(rust.length).toBeGreaterThan(20)
    const fromRust = Object.fromEntries(rust.map(([, code = '', retryable]) => [code, retryable === 'true']))
    expect(retryableByCode).toEqual(fromRust)
    expect(Object.keys(retryableByCode)).toEqual(rust.map(([, code]) => code))
  })

  test('is the same in Python', () => {
    const python = readFileSync(join(root, 'python/pillion/errors.py'), 'utf8')
    const codes = new Set([...python.matchAll(/"([a-z]+(?:_[a-z]+)*)"/g)].map(([, code]) => code))
    expect(rust.map(([, code]) => code).filter((code) => !codes.has(code))).toEqual([])
  })
})

describe('classes', () => {
  test('follow the data', () => {
    const python = errorFromJson(
      JSON.stringify({
        ...{ code: 'python_error', message: 'ValueError: no', retryable: false, requestId: 'r', stage: 'forward' },
        python: { pythonType: 'ValueError', traceback: 'Traceback ...' },
      }),
    )
    expect(python).toBeInstanceOf(PythonError)
    expect(python).toMatchObject({ name: 'PythonError', code: 'python_error', requestId: 'r', stage: 'forward' })
    expect(python).toMatchObject({ pythonType: 'ValueError', traceback: 'Traceback ...' })
    const lost = errorFromJson(
      JSON.stringify({
        ...{ code: 'worker_lost', message: 'gone', retryable: true },
        worker: { exitSignal: 'SIGKILL', stderrTail: 'last words' },
      }),
    )
    expect(lost).toBeInstanceOf(WorkerLostError)
    expect(lost).toMatchObject({ exitSignal: 'SIGKILL', stderrTail: 'last words', retryable: true })
    expect('exitCode' in lost).toBe(false)
    const plain = errorFromJson('{"code":"queue_full","message":"full","retryable":true,"retryAfterMs":50}')
    expect(plain).toBeInstanceOf(PillionError)
    expect(plain).not.toBeInstanceOf(PythonError)
    expect(plain).toMatchObject({ message: 'full', retryAfterMs: 50 })
  })

  test('show the remedy as a hint, and keep it apart', () => {
    const error = errorFromJson(
      '{"code":"python_not_found","message":"no Python","retryable":false,"remedy":"run npx pillion setup"}',
    )
    expect(error.message).toBe('no Python\nhint: run npx pillion setup')
    expect(error.remedy).toBe('run npx pillion setup')
  })

  test('what cannot be read is an internal error that quotes it', () => {
    expect(errorFromJson('Segmentation fault')).toMatchObject({ code: 'internal' })
    expect(errorFromJson('{"code":"no_such_code","message":"x"}')).toMatchObject({ code: 'internal' })
    const panic = errorFromNative(new Error('index out of bounds'))
    expect(panic).toMatchObject({ code: 'internal' })
    expect((panic as Error).message).toContain('index out of bounds')
    expect(errorFromNative('not an error')).toBe('not an error')
  })

  test('isInstance works across copies of the package, instanceof does not', async () => {
    const ended = await runNode(`const path = require.resolve('./dist/index.cjs');
      delete require.cache[path];
      const other = require(path);
      assert.notEqual(other.PillionError, pillion.PillionError);
      const error = await other.Tokenizer.fromFile('nowhere').catch((e) => e);
      assert.equal(error instanceof pillion.PillionError, false);
      assert.equal(pillion.PillionError.isInstance(error), true);
      assert.equal(pillion.PythonError.isInstance(error), false);
      for (const value of [undefined, null, 7, 'x', new Error('x'), {}]) assert.equal(pillion.PillionError.isInstance(value), false);`)
    expect(ended).toMatchObject({ code: 0, stderr: '' })
  })
})
