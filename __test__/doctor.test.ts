// `pillion doctor` as an operator meets it, on what is built, and what it makes of the facts. The cases with a Python need that of the test
// set-up.
import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { makeReport, type DoctorCandidate, type DoctorFacts, type DoctorReport } from '../src/cli/doctor-report'
import { reportText } from '../src/cli/doctor-text'
import { root, runCli, tempFolder, type Ended } from './helpers'

const python = process.env['PILLION_PYTHON'] ?? join(root, '.venv/bin/python')
const timeout = 300_000
const onLinux = process.platform === 'linux'

/** Nothing of this machine but what a test names. */
const bare = { PILLION_PYTHON: undefined, PILLION_BRIDGE: undefined, VIRTUAL_ENV: undefined, CONDA_PREFIX: undefined }

function doctor(args: string[], env: Record<string, string | undefined> = {}, cwd?: string): Promise<Ended> {
  return runCli(['doctor', ...args], { cwd: cwd ?? tempFolder(), env: { ...bare, ...env } })
}

async function report(args: string[], env?: Record<string, string | undefined>): Promise<[DoctorReport, Ended]> {
  const ended = await doctor(['--json', ...args], env)
  return [JSON.parse(ended.stdout) as DoctorReport, ended]
}

function script(text: string): string {
  const path = join(tempFolder(), 'python3')
  writeFileSync(path, `#!/bin/sh\n${text}\n`)
  chmodSync(path, 0o755)
  return path
}

/** An environment with nothing in it but the modules that are given. */
function environment(modules: Record<string, string> = {}): string {
  const folder = join(tempFolder(), 'env')
  execFileSync(python, ['-m', 'venv', '--without-pip', folder])
  const site = execFileSync(join(folder, 'bin/python'), ['-c', 'import site; print(site.getsitepackages()[0])'])
  for (const [name, text] of Object.entries(modules)) {
    mkdirSync(join(site.toString().trim(), name))
    writeFileSync(join(site.toString().trim(), name, '__init__.py'), text)
  }
  return folder
}

describe.skipIf(!existsSync(python))('a machine with Python', () => {
  test('is healthy, and each line is there', { timeout }, async () => {
    const { code, stdout, stderr } = await doctor(['--python', python])
    expect({ code, stderr }, stdout).toEqual({ code: 0, stderr: '' })
    const version = (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version
    expect(stdout.startsWith(`pillion ${version}\n`)).toBe(true)
    for (const line of [
      /^ {2}[✓!] binary +\S.*\.node \(.*\)$/m,
      /^ {4}node +\d+\.\d+\.\d+ at /m,
      /^ {4}system +\S/m,
      /^ {4}machine +\d+ (of \d+ )?cores?.*, .* of memory/m,
      /^ {2}✓ python +3\.\d+\.\d+ at .* \(option\)$/m,
      /^ {2}✓ packages .*numpy \d.*torch \d/m,
      /^ {2}✓ device .*(CPU|CUDA)/m,
      /^ {2}✓ embedded +[\d.]+ us a round trip \(p50 of \d+, p99 [\d.]+ us\), loaded in \d+ ms; what bridge: 'auto' takes$/m,
      /^healthy: 0 errors, \d warnings?$/m,
    ]) {
      expect(stdout).toMatch(line)
    }
    if (!onLinux) return
    for (const bridge of ['shm', 'grpc']) {
      expect(stdout).toMatch(new RegExp(`^ {2}✓ ${bridge} +[\\d.]+ us a round trip .*, loaded in \\d+ ms$`, 'm'))
    }
  })

  test('--json gives one object with all of it, and --bridge tries one', { timeout }, async () => {
    const [found, { code, stderr }] = await report(['--python', python, '--bridge', 'embedded'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const text: unknown = expect.any(String)
    const number: unknown = expect.any(Number)
    expect(found).toMatchObject({
      format: 1,
      healthy: true,
      pillion: { version: text, binary: { path: text, from: 'checkout', platform: text, target: text } },
      machine: {
        platform: `${process.platform}-${process.arch}`,
        kernel: text,
        ...(onLinux ? { libc: { name: expect.stringMatching(/^(glibc|musl)$/) as unknown } } : {}),
        node: { version: process.versions.node, path: process.execPath },
        cpu: { model: text, cores: number, usable: number },
        memory: { totalBytes: number, availableBytes: number },
        variables: expect.any(Object) as unknown,
      },
      bridges: [
        {
          ...{ bridge: 'embedded', works: true, isDefault: false, python: text, loadMs: number },
          roundTrip: { count: number, p50Us: number, p99Us: number },
        },
      ],
      libraries: {
        bridge: 'embedded',
        packages: { torch: { version: text, error: null } },
        torch: { threads: number, cpu: text, cuda: { devices: expect.any(Array) as unknown } },
      },
    })
    expect(found.pythons[0]).toMatchObject({ source: 'option', chosen: true, version: text, problem: null })
    expect(found.pythons[0]!.packages['grpc']).toMatch(/^\d/)
    const { count, p50Us, p99Us } = found.bridges[0]!.roundTrip!
    expect(count).toBeGreaterThan(0)
    expect(p50Us).toBeGreaterThan(0)
    expect(p99Us).toBeGreaterThanOrEqual(p50Us)
  })

  test.runIf(onLinux)(
    'without numpy and grpcio: the other bridges work, and it says what to run',
    { timeout },
    async () => {
      const { code, stdout } = await doctor(['--python', environment()])
      expect(code, stdout).toBe(0)
      expect(stdout).toMatch(/^ {2}✓ embedded .* us a round trip/m)
      expect(stdout).toMatch(/^ {2}✓ shm .* us a round trip/m)
      expect(stdout).toMatch(/^ {2}! grpc +python_package_missing: .*the package grpcio/m)
      expect(stdout).toMatch(/^warning: grpc: python_package_missing: .*\nhint: run `pip install 'pillion\[grpc\]'`/m)
      expect(stdout).toMatch(
        /^warning: packages: python_package_missing: numpy is not installed.*\nhint: run `npx pillion setup`$/m,
      )
      expect(stdout).toContain('no torch')
      // The bridge that was asked for is the one that counts.
      const named = await doctor(['--python', python, '--bridge', 'grpc'], { PYTHONPATH: shadow('grpc') })
      expect(named.code, named.stdout).toBe(1)
      expect(named.stdout).toMatch(/^error: grpc: python_package_missing: /m)
    },
  )

  test.runIf(onLinux)('without a shared library: another bridge is the default', { timeout }, async () => {
    const probe = join(root, 'crates/pillion-backend-embedded/src/probe.py')
    const said = execFileSync(python, ['-I', '-S', probe], { encoding: 'utf8' }).trim()
    const answer = JSON.parse(said.replace('pillion-probe:', '')) as object
    const path = script('')
    const wrapped = JSON.stringify({ ...answer, libpython: [], executable: path })
    // What asks is answered by us, all else by the real one.
    writeFileSync(
      path,
      `#!/bin/sh\ncase "$1 $2" in "-I -S") cat <<'END'\npillion-probe:${wrapped}\nEND\n;; *) exec '${python}' "$@";; esac\n`,
    )
    const [found, { code }] = await report([], { PILLION_PYTHON: path })
    expect([code, found.healthy]).toEqual([0, true])
    expect(found.bridges).toMatchObject([
      { bridge: 'embedded', works: false, error: { code: 'python_library_missing' } },
      { bridge: 'shm', works: true, isDefault: true },
      { bridge: 'grpc', works: true, isDefault: false },
    ])
    expect(found.libraries?.bridge).toBe('shm')
    const problem = found.problems.find(({ part }) => part === 'embedded')!
    expect(problem).toMatchObject({ level: 'warning', code: 'python_library_missing' })
    expect(problem.remedy).toContain('npx pillion setup')
  })

  test('a package that cannot be imported, and one that ends the process', { timeout }, async () => {
    const broken = environment({ numpy: "raise ImportError('libstdc++.so.6: version `GLIBCXX_3.4.99\\' not found')" })
    const [warned, { code }] = await report(['--python', broken, '--bridge', 'embedded'])
    expect([code, warned.healthy]).toEqual([0, true])
    const problem = warned.problems.find(({ message }) => message.includes('GLIBCXX'))
    expect(problem).toMatchObject({ level: 'warning', part: 'packages', code: 'python_package_missing' })
    expect(problem!.remedy).toContain("bridge: 'shm'")

    const deadly = environment({ numpy: 'import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)' })
    const [dead, ended] = await report(['--python', deadly, '--bridge', 'embedded'])
    expect([ended.code, dead.healthy]).toEqual([1, false])
    expect(dead.bridges[0]).toMatchObject({ works: true, error: { code: 'worker_lost' } })
    expect(dead.bridges[0]!.error!.message).toContain('SIGSEGV')
    expect(dead.problems[0]).toMatchObject({ level: 'error', part: 'embedded' })
  })

  test('what a package leaves behind is not waited for', { timeout }, async () => {
    const left = join(tempFolder(), 'pid')
    const leaving = environment({
      safetensors: `import subprocess\nopen(${JSON.stringify(left)}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))`,
    })
    try {
      const [found, { code }] = await report(['--python', leaving, '--bridge', 'embedded'])
      expect([code, found.bridges[0]!.error], JSON.stringify(found.problems)).toEqual([0, undefined])
    } finally {
      process.kill(Number(readFileSync(left, 'utf8')))
    }
  })

  test('a package whose import never ends is left after the time', { timeout }, async () => {
    const endless = environment({ numpy: 'import threading\nthreading.Event().wait()' })
    const [found, { code }] = await report(['--python', endless, '--bridge', 'embedded', '--timeout', '8'])
    expect([code, found.healthy]).toEqual([1, false])
    expect(found.bridges[0]!.error).toMatchObject({ code: 'deadline_exceeded' })
    expect(found.bridges[0]!.error!.message).toContain('after 8 s, and was ended')
  })
})

/** A folder whose package of this name cannot be imported. */
function shadow(name: string): string {
  const folder = tempFolder()
  writeFileSync(join(folder, `${name}.py`), "raise ImportError('hidden by a test')")
  return folder
}

describe('a machine without a Python that can be used', () => {
  test('none at all', { timeout }, async () => {
    const { code, stdout, stderr } = await doctor([], { PATH: tempFolder() })
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
    expect(stdout).toContain('none that can be used')
    expect(stdout).toMatch(/^error: python: python_not_found: .*\nhint: .*npx pillion setup/m)
    expect(stdout).not.toContain('    at ')
  })

  test('one that is too old, one that is not there', { timeout }, async () => {
    const old = script(`echo 'pillion-probe:${JSON.stringify(answer)}'`)
    const [found, { code }] = await report([], { PILLION_PYTHON: old })
    expect([code, found.healthy, found.bridges]).toEqual([1, false, []])
    expect(found.problems[0]).toMatchObject({ level: 'error', part: 'python', code: 'python_unsupported' })
    expect(found.problems[0]!.message).toContain('3.8.18')
    expect(found.problems[0]!.remedy).toContain('npx pillion setup')
    expect(found.pythons[0]).toMatchObject({ source: 'PILLION_PYTHON', version: '3.8.18', chosen: false })

    const missing = join(tempFolder(), 'python')
    const { stdout, code: second } = await doctor(['--python', missing])
    expect(second).toBe(1)
    expect(stdout).toMatch(/error: python: python_not_found: there is no interpreter .*\nhint: /)
    expect(stdout).toContain(missing)
  })

  test('one that never answers is left after the time', { timeout }, async () => {
    const pid = join(tempFolder(), 'pid')
    const silent = script(`echo $$ > '${pid}'; exec sleep 600`)
    const [found, { code }] = await report(['--timeout', '1'], { PILLION_PYTHON: silent })
    expect([code, found.healthy]).toEqual([1, false])
    expect(found.problems[0]).toMatchObject({ code: 'python_unsupported' })
    expect(found.problems[0]!.message).toContain('did not answer within 1 s')
    expect(() => process.kill(Number(readFileSync(pid, 'utf8')), 0)).toThrow('ESRCH')
  })

  const answer = {
    ...{ version: [3, 8, 18], implementation: 'cpython', free_threaded: false, trace_refs: false, pointer_bits: 64 },
    ...{ machine: 'x86_64', libc: 'glibc', executable: '/old/python3', base_executable: '/old/python3' },
    ...{ prefix: '/old', base_prefix: '/old', multiarch: null, libpython: [], searched: [] },
  }
})

test('who stops reading is told nothing more', () => {
  const cwd = tempFolder()
  const command = `("${process.execPath}" "${join(root, 'dist/cli.cjs')}" doctor 2>said; echo $? >>said) | true; cat said`
  const env = { ...process.env, ...bare, PILLION_NATIVE_PATH: join(cwd, 'none.node') }
  expect(execFileSync('sh', ['-c', command], { cwd, encoding: 'utf8', env })).toBe('1\n')
})

test('a binary that cannot be loaded is said to be', async () => {
  const { code, stdout, stderr } = await doctor([], { PILLION_NATIVE_PATH: join(tempFolder(), 'none.node') })
  expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
  expect(stdout).toMatch(/^ {2}✗ binary +not loaded$/m)
  expect(stdout).toMatch(/^error: binary: native_load_failed: [\s\S]*none\.node: there is no such file\nhint: /m)
})

describe('what is made of the facts', () => {
  const candidate = (change: Partial<DoctorCandidate> = {}): DoctorCandidate => ({
    ...{ source: 'PATH', path: '/usr/bin/python3', executable: '/usr/bin/python3', version: '3.12.1' },
    ...{ libpython: '/usr/lib/libpython3.12.so', chosen: true, problem: null },
    packages: { numpy: '2.4.6', torch: '2.15.0', transformers: '5.23.0', safetensors: '0.8.0', grpc: '1.85.1' },
    ...change,
  })
  const works = { works: true, loadMs: 90, roundTrip: { count: 1000, p50Us: 20, p99Us: 40 } } as const
  const facts = (change: Partial<DoctorFacts> = {}): DoctorFacts => ({
    pillion: {
      version: '0.1.0',
      binary: { path: '/x.node', from: 'package', platform: 'linux-x64-gnu', target: 'x86_64', optimized: true },
    },
    machine: {
      ...{ platform: 'linux-x64', kernel: 'Linux 6', node: { version: '20.1.0', path: '/node' } },
      ...{ cpu: { model: 'x', cores: 8, usable: 8 }, memory: { totalBytes: 2 ** 33, availableBytes: 2 ** 32 } },
      ...{ devShmBytes: 2 ** 30, variables: {} },
    },
    pythons: [candidate()],
    bridges: [
      { bridge: 'embedded', isDefault: true, ...works },
      { bridge: 'shm', isDefault: false, ...works },
    ],
    ...change,
  })
  const problems = (change: Partial<DoctorFacts>): string[] =>
    makeReport(facts(change)).problems.map(({ level, part, code }) => [level, part, ...(code ? [code] : [])].join(' '))
  const machine = (change: Partial<DoctorFacts['machine']>): Partial<DoctorFacts> => ({
    machine: { ...facts().machine, ...change },
  })

  test('nothing wrong is healthy', () => {
    expect(makeReport(facts())).toMatchObject({ format: 1, healthy: true, problems: [] })
    expect(reportText(makeReport(facts()))).toContain('healthy: 0 errors, 0 warnings\n')
  })

  test('another bridge than the default one may fail, the default one may not', () => {
    const error = { code: 'bridge_unavailable', message: 'no memfd' } as const
    const failed = { bridge: 'shm', works: false, isDefault: false, error } as const
    const embedded = { bridge: 'embedded', isDefault: true, ...works } as const
    expect(problems({ bridges: [embedded, failed] })).toEqual(['warning shm bridge_unavailable'])
    expect(problems({ bridges: [failed], wanted: 'shm' })).toEqual(['error shm bridge_unavailable'])
    expect(problems({ bridges: [{ ...embedded, error }, failed] })).toEqual([
      'error embedded bridge_unavailable',
      'warning shm bridge_unavailable',
    ])
    const none = makeReport(facts({ bridges: [failed], defaultError: error }))
    expect(none.healthy).toBe(false)
    expect(none.problems.map(({ level, part }) => `${level} ${part}`)).toEqual(['error default bridge', 'warning shm'])
  })

  test('a Python without a shared library does for the bridges that start it', () => {
    const error = {
      code: 'python_library_missing',
      message: 'no libpython',
      remedy: 'apt-get install libpython3.12',
    } as const
    const change = {
      pythons: [candidate({ chosen: false, problem: error, libpython: null })],
      pythonError: error,
      bridges: [
        { bridge: 'embedded', works: false, isDefault: false, error },
        { bridge: 'shm', isDefault: true, ...works },
      ],
    } as const
    expect(problems(change)).toEqual(['warning embedded python_library_missing'])
    const text = reportText(makeReport(facts(change)))
    expect(text).toContain('3.12.1 at /usr/bin/python3')
    expect(text).toContain('hint: apt-get install libpython3.12')
    const gone = { code: 'python_not_found', message: 'none' } as const
    expect(problems({ pythons: [], pythonError: gone, bridges: [] })).toEqual(['error python python_not_found'])
  })

  test('the one that is taken and the ones that are passed over', () => {
    const problem = { code: 'python_unsupported', message: '/v/python3 is Python 3.8.18' } as const
    const old = candidate({ source: 'VIRTUAL_ENV', path: '/v/python3', version: '3.8.18', chosen: false, problem })
    const text = reportText(makeReport(facts({ pythons: [old, candidate({ path: '/b/python3' })] })))
    expect(text).toMatch(
      /✓ python +3\.12\.1 at \/usr\/bin\/python3 \(PATH\)\n +passed over: 3\.8\.18 at \/v\/python3 \(VIRTUAL_ENV\): python_unsupported: /,
    )
  })

  test('none is taken in place of one that was named, and one that does not say what it has is told of', () => {
    const problem = { code: 'python_not_found', message: 'there is no interpreter /gone' } as const
    const gone = {
      ...candidate({ source: 'option', path: '/gone', executable: null, version: null }),
      chosen: false,
      problem,
    }
    const pythons = [gone, candidate({ chosen: false })]
    const text = reportText(makeReport(facts({ pythons, pythonError: problem, bridges: [] })))
    expect(text).toContain('✗ python       none that can be used')
    expect(text).toContain('3.12.1 at /usr/bin/python3 (PATH): not taken in place of the one that was named')
    const silent = { code: 'python_unsupported', message: 'python3 did not answer within 120 s' } as const
    expect(problems({ pythons: [candidate({ packages: {}, problem: silent })] })).toEqual([
      'warning python python_unsupported',
    ])
  })

  test('what of the machine matters', () => {
    const quota = { cpu: { model: 'x', cores: 8, usable: 2 } }
    expect(problems(machine(quota))).toEqual(['note machine'])
    expect(reportText(makeReport(facts(machine(quota))))).toContain('2 of 8 cores (affinity or cgroup)')
    expect(problems(machine({ variables: { OMP_NUM_THREADS: '16' } }))).toEqual(['warning machine'])
    expect(problems(machine({ variables: { OMP_NUM_THREADS: '8', LD_PRELOAD: 'libjemalloc.so.2' } }))).toEqual([])
    expect(problems(machine({ variables: { LD_PRELOAD: 'x', PILLION_DEEPBIND: 'all' } }))).toEqual(['warning machine'])
    expect(problems(machine({ variables: { PYTHONHOME: '/usr' } }))).toEqual(['note machine'])
    const memory = { totalBytes: 2 ** 36, limitBytes: 2 ** 31, availableBytes: 2 ** 29 }
    const text = reportText(makeReport(facts(machine({ memory, variables: { LD_PRELOAD: 'libjemalloc.so.2' } }))))
    expect(text).toContain('64.0 GiB of memory, limited to 2.0 GiB (cgroup), 512 MiB free')
    expect(text).toMatch(/variable +LD_PRELOAD=libjemalloc\.so\.2/)
  })

  test('devices, and a small /dev/shm when torch is there', () => {
    const torch = { threads: 4, cpu: 'AVX2', mps: false }
    const libraries = (devices: readonly { name: string; memoryBytes: number }[]): Partial<DoctorFacts> => {
      const cuda = { built: '13.2', devices, reason: devices.length > 0 ? null : 'Found no NVIDIA driver' }
      return { libraries: { bridge: 'embedded', packages: {}, torch: { ...torch, cuda } } }
    }
    const gpu = reportText(makeReport(facts(libraries([{ name: 'H200', memoryBytes: 139 * 2 ** 30 }]))))
    expect(gpu).toContain('CUDA 13.2: H200 (139.0 GiB); CPU (AVX2, 4 threads)')
    expect(reportText(makeReport(facts(libraries([]))))).toContain(
      'CPU (AVX2, 4 threads); no CUDA: Found no NVIDIA driver',
    )
    expect(problems({ ...libraries([]), ...machine({ devShmBytes: 2 ** 26 }) })).toEqual(['note machine'])
  })
})
