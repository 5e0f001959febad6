import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { root, runNode, tempFolder } from './helpers'
import { target } from '../src/native'

const script = (
  path = './dist/index.cjs',
): string => `const { Tokenizer, PillionError } = require(${JSON.stringify(path)});
  const error = await Tokenizer.fromJSON('{}').catch((e) => e);
  console.log(JSON.stringify({ code: error.code, message: error.message, isInstance: PillionError.isInstance(error) }))`

interface Said {
  code: string
  message: string
  isInstance: boolean
}

async function fails(env: NodeJS.ProcessEnv, path?: string): Promise<Said> {
  const ended = await runNode(script(path), env)
  expect(ended).toMatchObject({ code: 0, stderr: '' })
  return JSON.parse(ended.stdout) as Said
}

test('importing never fails; the first use says what was tried and why it did not do', async () => {
  const folder = tempFolder()
  const missing = await fails({ PILLION_NATIVE_PATH: join(folder, 'no.node') })
  expect(missing).toMatchObject({ code: 'native_load_failed', isInstance: true })
  expect(missing.message).toContain(join(folder, 'no.node'))
  expect(missing.message).toContain('no such file')

  writeFileSync(join(folder, 'broken.node'), 'this is no library')
  const broken = await fails({ PILLION_NATIVE_PATH: join(folder, 'broken.node') })
  expect(broken.code).toBe('native_load_failed')
  expect(broken.message).toMatch(/broken\.node: .+/)
})

test('without a binary, each place is named', async () => {
  const folder = tempFolder()
  mkdirSync(join(folder, 'dist'))
  copyFileSync(join(root, 'dist/index.cjs'), join(folder, 'dist/index.cjs'))
  const { code, message } = await fails({}, join(folder, 'dist/index.cjs'))
  expect(code).toBe('native_load_failed')
  expect(message).toContain(join('npm', target(), `pillion.${target()}.node`))
  expect(message).toContain(`package pillion-${target()}`)
  expect(message).toContain('hint: ')
})

test('a binary of another version is refused', async () => {
  const folder = tempFolder()
  writeFileSync(join(folder, 'other.js'), "module.exports = { version: () => '9.9.9' }")
  const { message } = await fails({ PILLION_NATIVE_PATH: join(folder, 'other.js') })
  expect(message).toContain('9.9.9')
})
