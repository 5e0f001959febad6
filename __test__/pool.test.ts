// The threads that tokenize: as many as the process may use cores, there as soon as the first tokenizer is.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { root, tinyModelFolder } from './helpers'

/** Loads a tokenizer, does nothing with it, and counts the pool's threads. Linux keeps fifteen characters of a thread's name. */
function script(): string {
  return `
    const { readFileSync, readdirSync } = require('node:fs')
    const { Tokenizer } = require(${JSON.stringify(join(root, 'dist/index.cjs'))})
    const named = () => readdirSync('/proc/self/task').filter((id) => readFileSync('/proc/self/task/' + id + '/comm', 'utf8').trim() === 'pillion-tokeniz')
    const before = named().length
    Tokenizer.fromPretrained(${JSON.stringify(tinyModelFolder())}).then(() => console.log(JSON.stringify({ before, after: named().length })))`
}

/** @param wrap a command that runs what follows it */
function threads(...wrap: string[]): { before: number; after: number } {
  const [command, ...args] = [...wrap, process.execPath, '-e', script()] as const
  return JSON.parse(execFileSync(command, args, { encoding: 'utf8' })) as { before: number; after: number }
}

const has = (command: string): boolean => {
  try {
    execFileSync(command, ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** A control group with room for one core, where this process may make one; the file in it that takes processes. */
function oneCoreGroup(): { folder: string; procs: string } | undefined {
  const name = `pillion-test-${process.pid}`
  for (const [base, limits] of [
    ['/sys/fs/cgroup', { 'cpu.max': '100000 100000' }],
    ['/sys/fs/cgroup/cpu', { 'cpu.cfs_period_us': '100000', 'cpu.cfs_quota_us': '100000' }],
  ] as const) {
    const folder = join(base, name)
    try {
      mkdirSync(folder)
    } catch {
      continue
    }
    try {
      for (const [file, value] of Object.entries(limits)) {
        if (!existsSync(join(folder, file))) throw new Error(`no ${file}`)
        writeFileSync(join(folder, file), value)
      }
      return { folder, procs: join(folder, 'cgroup.procs') }
    } catch {
      rmdirSync(folder)
    }
  }
  return undefined
}

describe.runIf(process.platform === 'linux')('the pool', () => {
  test('starts with the first tokenizer, with no more threads than cores', () => {
    const { before, after } = threads()
    expect(before).toBe(0)
    expect(after).toBeGreaterThanOrEqual(1)
    // Fewer where there is a quota that this Node does not see.
    expect(after).toBeLessThanOrEqual(availableParallelism())
  })

  test.runIf(has('taskset') && availableParallelism() > 1)('has a thread for each core', () => {
    expect(threads('taskset', '-c', '0,1')).toEqual({ before: 0, after: 2 })
  })

  test.runIf(has('taskset'))('counts the cores that the process is bound to', () => {
    expect(threads('taskset', '-c', '0')).toEqual({ before: 0, after: 1 })
  })

  const group = oneCoreGroup()
  if (group === undefined) console.warn('skipped: no control group can be made here')
  afterAll(() => {
    if (group !== undefined) rmdirSync(group.folder)
  })
  test.runIf(group !== undefined)('counts the quota of its control group', () => {
    // The shell moves itself into the group and becomes Node there.
    const enter = `echo $$ > ${group?.procs ?? ''} && exec "$@"`
    expect(threads('sh', '-c', enter, 'sh')).toEqual({ before: 0, after: 1 })
  })
})
