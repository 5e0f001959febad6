// `npm run matrix`: the tests of what Python does to Node's process, and a smoke of the other bridges, on other versions of Node and Python, under
// another allocator and with processes that a model forks. Prints a table; the last line is a plain count. What could not be had is not run, and said
// to be so. `--only WORD` runs the rows whose name has it, `--no-setup` uses what is built, `--list` names the rows.
import path from 'node:path'
import { parseArgs } from 'node:util'

import { jemalloc, node, otherPython } from './lib/variants.mjs'
import { build, checkTools, npmPackages, python, pythonEnvironment } from './lib/prepare.mjs'
import { counters, run } from './lib/steps.mjs'

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true, default: [] },
    'no-setup': { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
  },
})

const hardening = ['__test__/hardening.test.ts']
const whole = [...hardening, '__test__/process.test.ts', '__test__/native.test.ts']
/**
 * Each row: how to get what it needs, and what is run on it. What is got is its `node`, `env` and `shown` name, with what the tests shall find that
 * they run on, or why it is `missing`.
 */
const rows = [
  { name: 'Node, this one', get: () => ({ shown: `Node ${process.versions.node} (this one)` }), tests: whole },
  { name: 'Node 22', get: () => node('22'), tests: whole },
  { name: 'Node 24', get: () => node('24'), tests: whole },
  { name: 'jemalloc', get: () => jemalloc(), tests: whole },
  { name: 'forking DataLoader', get: () => ({}), tests: hardening, named: 'forks' },
  ...['3.10', '3.12', '3.13', '3.14'].map((minor) => ({
    name: `Python ${minor}`,
    get: () => otherPython(minor),
    tests: hardening,
  })),
]

const chosen = rows.filter(
  ({ name }) => values.only.length === 0 || values.only.some((word) => name.toLowerCase().includes(word.toLowerCase())),
)
if (values.list) {
  for (const { name } of rows) console.log(name)
  process.exit(0)
}
if (chosen.length === 0) {
  console.error(`error: no row has ${values.only.join(' or ')} in its name\nhint: --list names them`)
  process.exit(2)
}
if (!values['no-setup']) {
  await checkTools()
  await npmPackages()
  await build()
  await pythonEnvironment({ dev: true })
}

const results = []
for (const row of chosen) results.push(await runRow(row))
print(results)

async function runRow({ name, get, tests, named }) {
  const begin = Date.now()
  console.log(`\n▸ ${name}`)
  const got = await get()
  const shown = got.shown ?? name
  const done = (result, says) => {
    const seconds = ((Date.now() - begin) / 1000).toFixed(0)
    console.log(`  ${result}: ${says}, ${seconds} s`)
    return { name: shown, result, says, seconds }
  }
  if (got.missing !== undefined) return done('not run', got.missing)
  // vitest itself runs on that Node too, and so do the processes that its tests start.
  const vitest = path.join('node_modules', 'vitest', 'vitest.mjs')
  const filter = named === undefined ? [] : ['--testNamePattern', named]
  const args = [vitest, 'run', '--typecheck.enabled=false', '--reporter', 'verbose', ...filter, ...tests]
  const expects = JSON.stringify(got.expects ?? {})
  const env = { PILLION_PYTHON: python, NO_COLOR: '1', ...got.env, PILLION_TEST_EXPECTS: expects }
  const { code, output } = await run(got.node ?? process.execPath, args, { env, quiet: true })
  const { passed, failed } = counters.vitest(output)
  const skipped = /(\d+) skipped/.exec(/^\s*Tests\s.*$/m.exec(output)?.[0] ?? '')?.[1] ?? '0'
  const says = `${passed} passed, ${failed} failed, ${skipped} skipped`
  if (code === 0 && failed === 0 && passed > 0) return done('passed', says)
  console.log(output.split('\n').slice(-150).join('\n'))
  return done('failed', passed + failed === 0 ? `no test was run (exit status ${code})` : says)
}

function print(results) {
  const width = Math.max(...results.map(({ name }) => name.length))
  console.log(`\n${'row'.padEnd(width)}  result   time   tests`)
  for (const { name, result, says, seconds } of results) {
    console.log(`${name.padEnd(width)}  ${result.padEnd(7)}  ${`${seconds} s`.padStart(5)}  ${says}`)
  }
  const count = (word) => results.filter(({ result }) => result === word).length
  console.log(`\n${count('passed')} passed, ${count('failed')} failed, ${count('not run')} not run`)
  process.exit(count('failed') === 0 ? 0 : 1)
}
