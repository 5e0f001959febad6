import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { choose, judge, type Answer } from '../src/cli/interpreters'
import { root, runCli as pillion, tempFolder } from './helpers'

describe('pillion', () => {
  test('tells its version and its help on stdout', async () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
    expect(await pillion(['--version'])).toMatchObject({ code: 0, stdout: `${version}\n`, stderr: '' })
    for (const args of [[], ['--help'], ['-h'], ['help']]) {
      const { code, stdout, stderr } = await pillion(args)
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout).toContain('setup')
      expect(stdout).toContain('doctor')
    }
    expect((await pillion(['setup', '--help'])).stdout).toContain('--index-url')
    expect((await pillion(['doctor', '--help'])).stdout).toContain('Exit status')
  })

  test('refuses what it does not know, with a hint and without a stack', async () => {
    const command = await pillion(['setpu'])
    expect(command).toMatchObject({
      code: 2,
      stdout: '',
      stderr: "error: there is no command 'setpu'\nhint: did you mean 'setup'?\n",
    })
    const option = await pillion(['setup', '--pyhton', 'x'])
    expect(option.code).toBe(2)
    expect(option.stderr).toContain('--pyhton')
    expect(option.stderr).not.toContain('    at ')
    for (const args of [
      ['setup', 'extra'],
      ['doctor', 'extra'],
      ['doctor', '--bridge', 'pipe'],
      ['doctor', '--timeout', 'soon'],
      ['doctor', '--timeout', '0'],
    ]) {
      const { code, stdout, stderr } = await pillion(args)
      expect({ code, stdout }, args.join(' ')).toEqual({ code: 2, stdout: '' })
      expect(stderr).toContain(`hint: see pillion ${args[0]} --help`)
    }
  })
})

describe('pillion setup', () => {
  /** A program that answers the probe as a Python would. */
  function fakePython(folder: string, answer: Partial<Answer>): string {
    const path = join(folder, 'python-fake')
    const whole = {
      executable: path,
      version: [3, 12, 1],
      implementation: 'cpython',
      freeThreaded: false,
      libpython: true,
      venv: true,
    }
    writeFileSync(path, `#!/bin/sh\necho '${JSON.stringify({ ...whole, ...answer })}'\n`)
    chmodSync(path, 0o755)
    return path
  }

  test('says why an interpreter cannot be used, and what to do', async () => {
    const folder = tempFolder()
    const missing = await pillion(['setup', '--python', join(folder, 'nothing')], { cwd: folder })
    expect(missing.code).toBe(1)
    expect(missing.stderr).toContain('nothing: not found')
    expect(missing.stderr).toContain('hint: ')
    const old = await pillion(['setup'], {
      cwd: folder,
      env: { PILLION_PYTHON: fakePython(folder, { version: [3, 9, 2] }) },
    })
    expect(old.code).toBe(1)
    expect(old.stderr).toContain('its version is 3.9.2')
  })

  test('leaves a folder alone that is no environment', async () => {
    const folder = tempFolder()
    mkdirSync(join(folder, '.venv'))
    const ended = await pillion(['setup'], { cwd: folder })
    expect(ended.code).toBe(1)
    expect(ended.stderr).toContain('.venv exists and is no virtual environment')
  })

  test('an environment that is broken is named, with the remedy', async () => {
    const folder = tempFolder()
    mkdirSync(join(folder, 'env'))
    writeFileSync(join(folder, 'env/pyvenv.cfg'), '')
    const ended = await pillion(['setup', '--dir', 'env'], { cwd: folder })
    expect(ended.code).toBe(1)
    expect(ended.stderr).toContain('without an interpreter')
    expect(ended.stderr).toContain('hint: remove env')
  })

  test('a failing step ends it with what to do, and leaves no stamp', async () => {
    const folder = tempFolder()
    const path = fakePython(folder, {})
    writeFileSync(path, `${readFileSync(path, 'utf8')}case "$*" in *venv*) echo 'no room' >&2; exit 3;; esac\n`)
    const ended = await pillion(['setup', '--python', path], { cwd: folder })
    expect(ended.code).toBe(1)
    expect(ended.stderr).toContain('no room')
    expect(ended.stderr).toContain('exit status 3')
  })

  test('makes, installs, checks, and does nothing the second time', async () => {
    const folder = tempFolder()
    const log = join(folder, 'calls')
    // Plays the interpreter and, once "made", the environment's one.
    const path = fakePython(folder, {})
    writeFileSync(
      path,
      `${readFileSync(path, 'utf8')}echo "$*" >> '${log}'
case "$1 $2" in "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg";; esac\n`,
    )
    const args = ['setup', '--python', path, '--index-url', 'https://index.invalid/simple']
    const first = await pillion(args, { cwd: folder })
    expect(first).toMatchObject({ code: 0, stdout: '' })
    expect(first.stderr).toContain('done: ')
    const calls = readFileSync(log, 'utf8')
    expect(calls).toMatch(/^-m venv .*\.venv$/m)
    expect(calls).toMatch(/^-m pip install .*--index-url https:\/\/index\.invalid\/simple -r .*requirements\.lock$/m)
    expect(calls).toMatch(/^-c import torch, transformers/m)

    writeFileSync(log, '')
    const second = await pillion(args, { cwd: folder })
    expect(second.stderr).toBe('.venv is set up already\n')
    expect(readFileSync(log, 'utf8')).not.toContain('install')

    writeFileSync(join(folder, '.venv/pillion-setup.json'), 'of another version\n')
    expect((await pillion(args, { cwd: folder })).stderr).toContain('using .venv, which is there already')
  })
})

describe('judging interpreters', () => {
  const good: Answer = {
    ...{ executable: '/usr/bin/python3', version: [3, 11, 2], implementation: 'cpython' },
    ...{ freeThreaded: false, libpython: true, venv: true },
  }

  test.each([
    [{}, undefined],
    [{ version: [3, 10, 9] }, 'its version is 3.10.9'],
    [{ version: [2, 7, 18] }, 'its version is 2.7.18'],
    [{ version: [4, 0, 0] }, 'its version is 4.0.0'],
    [{ implementation: 'pypy' }, 'CPython is needed'],
    [{ freeThreaded: true }, 'free-threaded'],
    [{ venv: false }, 'no venv module'],
  ] as [Partial<Answer>, string | undefined][])('%j', (change, problem) => {
    const judged = judge('python3', { ...good, ...change })
    if (problem === undefined) expect(judged.problem).toBeUndefined()
    else expect(judged.problem).toContain(problem)
  })

  test('the first good one is taken, one without libpython only if there is no other', () => {
    const bad = judge('python3', { ...good, venv: false })
    const half = judge('python3.13', { ...good, libpython: false })
    const fine = judge('python3.12', good)
    expect(half.warning).toContain('no shared libpython')
    expect(choose([bad, half, fine, judge('python3.11', good)])).toBe(fine)
    expect(choose([bad, half])).toBe(half)
    expect(choose([bad])).toBeUndefined()
  })
})
