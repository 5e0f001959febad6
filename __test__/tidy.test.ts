// The rules of the layout that no compiler checks: arrows between crates, one home per foreign world, one loader, paths that documents name.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import { describe, expect, test } from 'vitest'

const root = path.resolve(import.meta.dirname, '..')
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8')
const crates = readdirSync(path.join(root, 'crates'))
// Files that git knows or would add: nothing that was built.
const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: root,
  encoding: 'utf8',
})
  .split('\n')
  .filter((file) => file !== '' && existsSync(path.join(root, file)))

/** Which crates of ours each crate may use. `*` marks the only place that picks a backend. */
const arrows: Record<string, readonly string[] | '*'> = {
  'pillion-core': [],
  'pillion-tokenize': ['pillion-core'],
  'pillion-schedule': ['pillion-core'],
  'pillion-backend-echo': ['pillion-core'],
  'pillion-backend-embedded': ['pillion-core'],
  'pillion-backend-worker': ['pillion-core'],
  'pillion-bridge': ['pillion-core'],
  'pillion-engine': ['pillion-core', 'pillion-tokenize', 'pillion-schedule'],
  'pillion-testkit': ['pillion-core'],
  'pillion-node': '*',
}

/** Each foreign world has one home. */
const homes: Record<string, string> = {
  napi: 'pillion-node',
  'napi-derive': 'pillion-node',
  pyo3: 'pillion-bridge',
  libloading: 'pillion-backend-embedded',
  rayon: 'pillion-tokenize',
  tokenizers: 'pillion-tokenize',
  minijinja: 'pillion-tokenize',
  // Of the worker's gRPC; a server of our own will have a home of its own.
  prost: 'pillion-backend-worker',
  tokio: 'pillion-backend-worker',
  tonic: 'pillion-backend-worker',
}

/** Names under `[dependencies]`, also those under `[target.'cfg(..)'.dependencies]`; not the ones that only tests use. */
function dependencies(crate: string): string[] {
  const sections = read(`crates/${crate}/Cargo.toml`).split(/^\[/m)
  const wanted = sections.filter((section) => /^(target\..*\.)?dependencies\]/.test(section))
  return wanted.flatMap((section) => [...section.matchAll(/^([\w-]+)(?:\.workspace)?\s*=/gm)].map((match) => match[1]!))
}

describe('crates', () => {
  test.each(crates)('%s uses only what lies below it', (crate) => {
    const allowed = arrows[crate]
    expect(allowed, `name ${crate} and its arrows in __test__/tidy.test.ts`).toBeDefined()
    if (allowed === '*') return
    const ours = dependencies(crate).filter((name) => name.startsWith('pillion-'))
    expect(ours.filter((name) => !allowed!.includes(name))).toEqual([])
  })

  test.each(Object.entries(homes))('%s is used in %s only', (world, home) => {
    expect(crates.filter((crate) => crate !== home && dependencies(crate).includes(world))).toEqual([])
  })

  test('unsafe code stands only where the design allows it', () => {
    const allowed =
      /^crates\/(pillion-(node|bridge)\/|pillion-backend-embedded\/|pillion-backend-worker\/|pillion-tokenize\/src\/(bpe\/)?(simd|map)\.rs)/
    const rust = files.filter((file) => file.endsWith('.rs') && file.includes('/src/'))
    const unsafe = rust.filter((file) =>
      /\bunsafe\s*(\{|fn|impl|extern)/.test(read(file).replaceAll(/^\s*\/\/.*$/gm, '')),
    )
    // The C table's type is core's, the calls through it are not.
    expect(unsafe.filter((file) => !allowed.test(file) && file !== 'crates/pillion-core/src/abi.rs')).toEqual([])
  })

  test('nothing unwraps outside tests', () => {
    const rust = files.filter((file) => /^crates\/[^/]+\/src\/.*\.rs$/.test(file) && !/\/tests?(\/|\.rs)/.test(file))
    const guilty = rust.filter((file) => {
      const code = read(file).split(/#\[cfg\(test\)\]/)[0]!
      return code.replaceAll(/^\s*\/\/.*$/gm, '').includes('.unwrap()')
    })
    expect(guilty.filter((file) => !file.startsWith('crates/pillion-testkit/'))).toEqual([])
  })
})

describe('TypeScript', () => {
  test('one file loads the binary', () => {
    const sources = files.filter((file) => file.startsWith('src/') && file.endsWith('.ts'))
    const loads = sources.filter((file) => /process\.dlopen|createRequire|\brequire\(|\.node['"`]/.test(read(file)))
    expect(loads.filter((file) => !file.endsWith('.d.ts'))).toEqual(['src/native.ts'])
  })

  test('file names are kebab-case', () => {
    const sources = files.filter((file) => /^(src|__test__|benchmark|examples)\/.*\.ts$/.test(file))
    expect(sources.filter((file) => !/^[a-z0-9.-]+$/.test(path.basename(file)))).toEqual([])
  })
})

describe('documents', () => {
  test('name only files that exist', () => {
    const documents = files.filter(
      (file) => /^(docs\/.*|README|CONTRIBUTING)(\.md)?$/.test(file) && file.endsWith('.md'),
    )
    const missing = documents.flatMap((document) =>
      [...read(document).matchAll(/`((?:crates|src|python|docs|scripts|benchmark|examples|__test__)\/[\w./-]+)`/g)]
        .map((match) => match[1]!)
        .filter((file) => !existsSync(path.join(root, file)))
        .map((file) => `${document}: ${file}`),
    )
    expect(missing).toEqual([])
  })

  test('say nothing of any one machine', () => {
    const text = files.filter((file) => /\.(md|ts|mjs|rs|py|toml|json|yml)$/.test(file) && !file.includes('lock'))
    const own = [`${os.homedir()}/`, `${path.dirname(root)}/`].filter((folder) => folder.length > 2)
    const guilty = text.filter((file) => own.some((folder) => read(file).includes(folder)))
    expect(guilty).toEqual([])
  })
})

describe('versions', () => {
  test('are the same on all sides', () => {
    const { version } = JSON.parse(read('package.json')) as { version: string }
    expect(read('Cargo.toml')).toContain(`version = "${version}"`)
    expect(read('python/pillion/__init__.py')).toContain(`__version__ = "${version}"`)
  })
})
