// On which Linux systems a binary loads, told from the versions of glibc's symbols that it needs. `scripts/check.mjs` holds the published build to the floor.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkPortable, compareVersions, neededGlibc, neededVersions } from '../scripts/lib/elf.mjs'
import { platforms } from '../scripts/platforms.mjs'
import { target } from '../src/native'
import { root, tempFolder } from './helpers'

const here = Object.values(platforms).find(({ name }) => name === target())!
const binaries = [`pillion.${here.name}.node`, 'libpillion_bridge.so'].map((file) => join(root, 'npm', here.name, file))

test('versions are compared by their numbers', () => {
  expect(['2.4', '2.28', '2.3.4', '2.17', '3'].sort(compareVersions)).toEqual(['2.3.4', '2.4', '2.17', '2.28', '3'])
  expect(compareVersions('2.28', '2.28')).toBe(0)
})

describe.runIf(here.libc === 'glibc')('a binary', () => {
  test.each(binaries)('%s names the versions that it needs', (file) => {
    const versions = neededVersions(file)
    expect(versions.some(({ library, version }) => library === 'libc.so.6' && version === 'GLIBC_2.2.5')).toBe(
      here.cpu === 'x64',
    )
    // What the reader says must stand in the file, and nothing newer may.
    const inFile = readFileSync(file, 'latin1')
      .match(/GLIBC_\d+(?:\.\d+)+/g)!
      .map((version) => version.slice(6))
    expect(neededGlibc(file)).toBe(inFile.sort(compareVersions).at(-1))
  })

  test('that needs a newer glibc than the floor is refused, and one of the floor is not', () => {
    const [file] = binaries as [string]
    const bytes = readFileSync(file)
    // Every version of two digits becomes another one of the same length.
    const renamed = (version: string): string => {
      const path = join(tempFolder(), 'renamed.node')
      writeFileSync(path, bytes.toString('latin1').replaceAll(/GLIBC_2\.\d\d\0/g, `GLIBC_${version}\0`), 'latin1')
      return path
    }
    const newer = renamed('9.99')
    expect(() => checkPortable(newer, { libc: 'glibc' })).toThrow(
      /needs glibc 9\.99, newer than 2\.28: build it with --zig/,
    )
    expect(() => checkPortable(renamed('2.02'), { libc: 'glibc' })).not.toThrow()
    expect(() => checkPortable(file, { libc: 'musl' })).toThrow('is for musl and needs glibc')
  })
})

test('what is no binary, or a part of one, is an error that names the file', () => {
  const path = join(tempFolder(), 'broken.node')
  for (const content of ['', 'text', '\u007fELF']) {
    writeFileSync(path, content, 'latin1')
    expect(() => neededVersions(path)).toThrow(path)
  }
  if (here.os !== 'linux') return
  const bytes = readFileSync(binaries[0]!)
  for (const end of [64, 1000, Math.floor(bytes.length / 2)]) {
    writeFileSync(path, bytes.subarray(0, end))
    expect(() => neededVersions(path)).toThrow(path)
  }
})
