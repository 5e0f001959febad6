// Which versions of which libraries' symbols a Linux binary needs, read from the binary itself: what decides on which systems it loads.
import { readFileSync } from 'node:fs'

/** The oldest glibc that the published Linux packages need: that of Debian 10, RHEL 8 and Ubuntu 18.10. */
export const glibcFloor = '2.28'

const SHT_GNU_VERNEED = 0x6ffffffe

/** The needed versions, such as `{ library: 'libc.so.6', version: 'GLIBC_2.28' }`. For 64-bit little-endian ELF files. */
export function neededVersions(path) {
  const file = readFileSync(path)
  if (file.length < 64 || file.readUInt32BE(0) !== 0x7f454c46 || file[4] !== 2 || file[5] !== 1) {
    throw new Error(`${path} is no 64-bit little-endian ELF file`)
  }
  try {
    const sections = readSections(file)
    return sections
      .filter(({ type }) => type === SHT_GNU_VERNEED)
      .flatMap((section) => readNeeds(file, sections, section))
  } catch (error) {
    throw new Error(`${path} cannot be read as an ELF file: ${error.message}`, { cause: error })
  }
}

/** The newest version of glibc among the needed ones, or `undefined` if it needs none. */
export function neededGlibc(path) {
  const versions = neededVersions(path).flatMap(({ version }) => /^GLIBC_(\d+(?:\.\d+)+)$/.exec(version)?.[1] ?? [])
  return versions.sort(compareVersions).at(-1)
}

/** Below, at or above zero as `a` is older than, the same as or newer than `b`. */
export function compareVersions(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number))
  for (let i = 0; i < Math.max(left.length, right.length); i += 1) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

/** Refuses a binary that a supported system could not load: a newer glibc than the floor, or any glibc at all in a musl package. */
export function checkPortable(path, { libc }) {
  const needed = neededGlibc(path)
  if (libc === 'musl' && needed !== undefined) throw new Error(`${path} is for musl and needs glibc ${needed}`)
  if (libc !== 'glibc') return
  if (needed === undefined) throw new Error(`${path} is for glibc and needs no version of it, which cannot be`)
  if (compareVersions(needed, glibcFloor) > 0) {
    throw new Error(`${path} needs glibc ${needed}, newer than ${glibcFloor}: build it with --zig`)
  }
}

function readSections(file) {
  const at = Number(file.readBigUInt64LE(0x28))
  const [size, count] = [file.readUInt16LE(0x3a), file.readUInt16LE(0x3c)]
  return Array.from({ length: count }, (_, i) => {
    const header = at + i * size
    return {
      type: file.readUInt32LE(header + 4),
      offset: Number(file.readBigUInt64LE(header + 0x18)),
      link: file.readUInt32LE(header + 0x28),
      entries: file.readUInt32LE(header + 0x2c),
    }
  })
}

// Two linked lists: libraries, and for each the versions that are needed of it. Their lengths are known, so a loop in them ends.
function readNeeds(file, sections, { offset, link, entries }) {
  const text = (at) => {
    const start = sections[link].offset + at
    return file.toString('latin1', start, file.indexOf(0, start))
  }
  const needs = []
  for (let at = offset, i = 0; i < entries; i += 1, at += file.readUInt32LE(at + 12)) {
    const library = text(file.readUInt32LE(at + 4))
    const versions = file.readUInt16LE(at + 2)
    for (let aux = at + file.readUInt32LE(at + 8), j = 0; j < versions; j += 1, aux += file.readUInt32LE(aux + 12)) {
      needs.push({ library, version: text(file.readUInt32LE(aux + 8)) })
    }
  }
  return needs
}
