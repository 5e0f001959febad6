// `npm test`: sets everything up on a fresh machine, then runs every test of every language. The last line is a plain count.
import { build, checkTools, models, npmPackages, python, pythonEnvironment, smollm2 } from './lib/prepare.mjs'
import { counters, finish, step } from './lib/steps.mjs'

await checkTools()
await npmPackages()
await build()
await pythonEnvironment({ dev: true })
await models()

const keepGoing = true
await step('Rust tests', 'cargo', ['test', '--workspace', '--quiet', '--no-fail-fast'], {
  count: counters.cargo,
  env: { PILLION_TEST_PYTHON: python },
  keepGoing,
})
// What other Unix systems get, in place of what only Linux has.
await step(
  'Rust tests, as on other systems',
  'cargo',
  ['test', '-p', 'pillion-backend-worker', '--features', 'portable', '--quiet', '--no-fail-fast'],
  {
    count: counters.cargo,
    env: { PILLION_TEST_PYTHON: python },
    keepGoing,
  },
)
await step('Python tests', python, ['-m', 'pytest', '-q', 'python/tests'], {
  count: counters.pytest,
  env: { PILLION_TEST_MODEL: smollm2 },
  keepGoing,
})
await step('TypeScript tests', 'npx', ['vitest', 'run'], {
  count: counters.vitest,
  env: { PILLION_TEST_MODEL: smollm2, PILLION_PYTHON: python, PILLION_TEST_RELEASE: '1' },
  keepGoing,
})
finish()
