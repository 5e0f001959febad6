// Real text in many scripts, taken from packages of the system (Debian) and from Python's standard library. Kept in the cache by recipe.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { gunzipSync } from 'node:zlib'

import { Unavailable, cache, hash, lastLine, moveInto } from './packages'
import { Random } from './random'

/** A file counts if its path, after the package's name, matches; what kind of markup it has follows from its name. */
interface Source {
  readonly debian: string
  readonly files: RegExp
}

const handbook = (language: string): Source => ({
  debian: 'debian-handbook',
  files: new RegExp(`/html/${language}/.*\\.html$`),
})
const help = (language: string): Source => ({ debian: `libreoffice-help-${language}`, files: /\/text\/.*\.html$/ })
const reference = (language: string): Source => ({ debian: `debian-reference-${language}`, files: /\.html$/ })
const catalogues = (language: string): Source => ({ debian: `libreoffice-l10n-${language}`, files: /\.mo$/ })

/** Each language with where its text comes from, best prose first. */
const sources: Readonly<Record<string, readonly Source[] | 'python'>> = {
  en: [handbook('en-US'), { debian: 'linux-doc-6.1', files: /\.rst(\.gz)?$/ }, help('en-us')],
  code: 'python',
  ja: [
    handbook('ja-JP'),
    help('ja'),
    { debian: 'manpages-ja', files: /\/man\/ja\/.*\.gz$/ },
    reference('ja'),
    { debian: 'lilypond-doc-html-ja', files: /\.ja\.html$/ },
    { debian: 'kicad-doc-ja', files: /\.html$/ },
    catalogues('ja'),
  ],
  zh: [
    handbook('zh-CN'),
    handbook('zh-TW'),
    help('zh-cn'),
    help('zh-tw'),
    { debian: 'manpages-zh', files: /\/man\/zh_.*\.gz$/ },
    reference('zh-cn'),
    reference('zh-tw'),
    { debian: 'kicad-doc-zh', files: /\.html$/ },
    { debian: 'fortunes-zh', files: /\/fortunes\/[\w-]+$/ },
    catalogues('zh-cn'),
  ],
  ru: [handbook('ru-RU')],
  ar: [handbook('ar-MA')],
  ko: [handbook('ko-KR')],
  el: [handbook('el-GR')],
  fa: [handbook('fa-IR')],
  de: [handbook('de-DE')],
  vi: [handbook('vi-VN')],
}

/** A language that there is a recipe for. */
export const languages = Object.keys(sources)

const maxBytes = 26_000_000
const recipe = hash(
  JSON.stringify(sources, (_, value: unknown) => (value instanceof RegExp ? value.source : value)),
  '4',
  String(maxBytes),
)

/** The text of one language. Lines that stood in it before are left out, so that all of it is new. Cached.
 * @throws {Unavailable} if its sources cannot be fetched */
export function corpus(language: string): string {
  const file = path.join(cache, `corpora-${recipe}`, `${language}.txt`)
  if (existsSync(file)) return readFileSync(file, 'utf8')
  const from = sources[language]
  if (from === undefined) throw new RangeError(`no corpus for ${language}: known are ${languages.join(', ')}`)
  const paths = from === 'python' ? pythonFiles() : from.flatMap((source) => unpackedFiles(source))
  const text = distinctLines(new Random(7).shuffle(paths), from === 'python')
  if (text.length === 0) throw new Unavailable(`no text for ${language}: its packages have other files than they had`)
  mkdirSync(path.dirname(file), { recursive: true })
  writeFileSync(file, text)
  return text
}

/** Those languages whose text can be had, and a sentence for each other. */
export function availableCorpora(names: readonly string[] = languages): {
  texts: Map<string, string>
  missing: string[]
} {
  const texts = new Map<string, string>()
  const missing: string[] = []
  for (const name of names) {
    try {
      texts.set(name, corpus(name))
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error
      missing.push(`${name}: ${error.message}`)
    }
  }
  return { texts, missing }
}

/** Pieces of so many code points; a last short one is left out unless it is the only one. */
export function documents(text: string, codePoints: number, max = Number.POSITIVE_INFINITY): string[] {
  const out: string[] = []
  let at = 0
  while (at < text.length && out.length < max) {
    let end = at
    for (let i = 0; i < codePoints && end < text.length; i += 1) end += (text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1
    if (end < text.length || out.length === 0) out.push(text.slice(at, end))
    at = end
  }
  return out
}

function distinctLines(paths: readonly string[], isCode: boolean): string {
  const seen = new Set<string>()
  const parts: string[] = []
  let bytes = 0
  for (const file of paths) {
    const lines: string[] = []
    for (const line of readText(file).split('\n')) {
      const plain = isCode ? line.trimEnd() : line.trim()
      // Short lines of code repeat by nature; a line of prose that repeats is navigation.
      if (plain.length > (isCode ? 24 : 0) && seen.has(plain)) continue
      seen.add(plain)
      if (plain !== '' || lines.at(-1) !== '') lines.push(plain)
    }
    const part = lines.join('\n')
    parts.push(part)
    bytes += Buffer.byteLength(part)
    if (bytes > maxBytes) break
  }
  return parts.join('\n').toWellFormed()
}

/** The readable part of a file: HTML without markup, a manual page without macros, the strings of a catalogue. */
function readText(file: string): string {
  const raw = readFileSync(file)
  const bytes = file.endsWith('.gz') ? gunzipSync(raw) : raw
  if (file.endsWith('.mo')) return catalogueStrings(bytes)
  const text = bytes.toString('utf8').replaceAll('\ufffd', '')
  if (file.endsWith('.html')) return stripHtml(text)
  if (file.includes('/man/')) return text.replaceAll(/^[.'].*$/gm, '').replaceAll(/\\f.|\\[-&]/g, '')
  return text
}

function stripHtml(html: string): string {
  const named: Record<string, string> = {
    amp: '&',
    lt: '<',
    gt: '>',
    quot: '"',
    apos: "'",
    nbsp: '\u00a0',
    mdash: '—',
    ndash: '–',
  }
  return html
    .replaceAll(/<(script|style|head)\b[\s\S]*?<\/\1>/g, '')
    .replaceAll(/<[^>]*>/g, '')
    .replaceAll(/&#(x?)([0-9a-f]+);/gi, (_, hex: string, digits: string) =>
      String.fromCodePoint(Math.min(Number.parseInt(digits, hex === '' ? 10 : 16) || 0xfffd, 0x10ffff)),
    )
    .replaceAll(/&(\w+);/g, (whole, name: string) => named[name] ?? whole)
}

/** The translations in a GNU catalogue: a table of lengths and places. */
function catalogueStrings(bytes: Buffer): string {
  const count = bytes.readUInt32LE(8)
  const table = bytes.readUInt32LE(16)
  const lines: string[] = []
  for (let i = 0; i < count; i += 1) {
    const length = bytes.readUInt32LE(table + 8 * i)
    const at = bytes.readUInt32LE(table + 8 * i + 4)
    lines.push(...bytes.toString('utf8', at, at + length).split('\0'))
  }
  return lines.join('\n')
}

function pythonFiles(): string[] {
  const names = [process.env['PILLION_PYTHON'], 'python3', 'python'].filter((name) => name !== undefined && name !== '')
  for (const name of names as string[]) {
    try {
      const args = ['-c', 'import sysconfig; print(sysconfig.get_path("stdlib"))']
      const folder = execFileSync(name, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
      return filesIn(folder).filter(
        (file) => file.endsWith('.py') && !/site-packages|dist-packages|lib2to3.*data|test.bad/.test(file),
      )
    } catch {
      // The next name may do.
    }
  }
  throw new Unavailable("no Python, whose standard library is the text of 'code'")
}

function unpackedFiles(source: Source): string[] {
  return filesIn(unpacked(source.debian)).filter((file) => source.files.test(file))
}

function filesIn(folder: string): string[] {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name))
    .sort()
}

/** The contents of a Debian package. */
function unpacked(name: string): string {
  const target = path.join(cache, `debian-${name}`)
  if (existsSync(target)) return target
  mkdirSync(cache, { recursive: true })
  const staging = mkdtempSync(path.join(cache, 'debian-'))
  try {
    download(name, staging)
    const archive = readdirSync(staging).find((file) => file.endsWith('.deb'))
    if (archive === undefined) throw new Error('nothing was downloaded')
    execFileSync('dpkg-deb', ['-x', archive, '.'], { cwd: staging, stdio: ['ignore', 'ignore', 'pipe'] })
    rmSync(path.join(staging, archive))
    moveInto(staging, target)
  } catch (error) {
    throw new Unavailable(`the Debian package ${name} cannot be fetched: ${lastLine(error)}`, { cause: error })
  } finally {
    rmSync(staging, { recursive: true, force: true })
  }
  return target
}

let listsAreFresh = false

function download(name: string, folder: string): void {
  const apt = (args: string[]): Buffer =>
    execFileSync('apt-get', ['-qq', ...args], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] })
  try {
    apt(['download', name])
  } catch (error) {
    if (listsAreFresh) throw error
    listsAreFresh = true
    apt(['update'])
    apt(['download', name])
  }
}
