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
// What is published is linked against an old glibc, so that is what is packed and run here.
const portable = process.platform === 'linux'
if (portable)
  await step('build for publishing', process.execPath, ['scripts/build-native.mjs', '--release', '--zig'], {
    keepGoing: true,
  })
await step('the packed package', process.execPath, ['scripts/pack-test.mjs', ...(portable ? ['--portable'] : [])], {
  count: counters.one,
  keepGoing: true,
})
finish()
