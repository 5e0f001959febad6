// `npm run check`: all that CI runs. Each part counts for itself; the last line adds them up.
import { counters, finish, step } from './lib/steps.mjs'

const total = (output) => {
  const [, passed, failed] = output
    .match(/^(\d+) passed, (\d+) failed$/gm)
    ?.at(-1)
    ?.match(/(\d+) passed, (\d+) failed/) ?? [0, 0, 1]
  return { passed: Number(passed), failed: Number(failed) }
}

await step('tests', 'npm', ['test'], { count: total, keepGoing: true })
await step('linters', process.execPath, ['scripts/lint.mjs'], { count: total, keepGoing: true })
await step('the packed package', process.execPath, ['scripts/pack-test.mjs'], { count: counters.one, keepGoing: true })
finish()
