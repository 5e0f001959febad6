/** What `pillion doctor` finds, as `--json` prints it, and what is made of it: pure functions of the facts. */

import type { Bridge } from '../engine'
import { PillionError, type ErrorCode } from '../errors'

/** An error as it arrived, in the words of the one who met it. */
export interface DoctorError {
  readonly code: ErrorCode
  readonly message: string
  /** What to do, as one sentence or command. */
  readonly remedy?: string
}

/** What was thrown, as a report has it. */
export function asDoctorError(error: unknown, code: ErrorCode = 'internal'): DoctorError {
  if (!PillionError.isInstance(error)) return { code, message: error instanceof Error ? error.message : String(error) }
  // The message of an error ends with its remedy, which is told apart here.
  const message = error.message.split('\nhint: ')[0] ?? ''
  return error.remedy === undefined
    ? { code: error.code, message }
    : { code: error.code, message, remedy: error.remedy }
}

/** A Python that could be taken, as the native side tells of it. */
export interface DoctorCandidate {
  /** Why it is a candidate. */
  readonly source: 'option' | 'PILLION_PYTHON' | 'VIRTUAL_ENV' | 'CONDA_PREFIX' | '.venv' | 'PATH'
  /** Where it was found; maybe a shim. */
  readonly path: string
  /** What it says it is. */
  readonly executable: string | null
  readonly version: string | null
  /** The library that the embedded bridge loads. */
  readonly libpython: string | null
  /** Version by the name that is imported; `null` if it is not installed. */
  readonly packages: Readonly<Record<string, string | null>>
  /** Whether the embedded bridge takes it. */
  readonly chosen: boolean
  /** Why it cannot be taken. */
  readonly problem: DoctorError | null
}

/** What became of loading a model over one bridge. */
export interface DoctorBridge {
  readonly bridge: Bridge
  readonly works: boolean
  /** Whether `bridge: 'auto'` takes it here. */
  readonly isDefault: boolean
  /** The interpreter that ran. */
  readonly python?: string
  /** Milliseconds that `Engine.load` took, Python's own start included. */
  readonly loadMs?: number
  /** Of `predict()` on one number: JS to Python and back. */
  readonly roundTrip?: { readonly count: number; readonly p50Us: number; readonly p99Us: number }
  /** Why it does not work. */
  readonly error?: DoctorError
}

/** What the numeric libraries do when they are imported over the default bridge. */
export interface DoctorLibraries {
  /** The bridge that they were imported over. */
  readonly bridge: Bridge
  readonly packages: Readonly<Record<string, { readonly version: string | null; readonly error: string | null }>>
  readonly torch: {
    readonly threads: number
    /** The best instruction set that torch's kernels use. */
    readonly cpu: string
    readonly mps: boolean
    readonly cuda: {
      /** The CUDA or ROCm version that torch is built for. */
      readonly built: string | null
      readonly devices: readonly { readonly name: string; readonly memoryBytes: number }[]
      /** Why there is none. */
      readonly reason: string | null
    }
  } | null
}

/** Something to know. An error makes the report unhealthy; a warning says what will not work; a note may explain a surprise. */
export interface DoctorProblem {
  readonly level: 'error' | 'warning' | 'note'
  /** What it is about. */
  readonly part: 'binary' | 'python' | 'packages' | 'machine' | 'default bridge' | Bridge
  readonly code?: ErrorCode
  readonly message: string
  readonly remedy?: string
}

/** The machine as this process sees it. */
export interface DoctorMachine {
  /** As `process.platform` and `process.arch` name it. */
  readonly platform: string
  readonly kernel: string
  /** Linux only. */
  readonly libc?: { readonly name: 'glibc' | 'musl'; readonly version?: string }
  readonly node: { readonly version: string; readonly path: string }
  readonly cpu: {
    readonly model: string
    /** Cores of the machine. */
    readonly cores: number
    /** Cores that this process may use, by its affinity and the cgroup's quota, and for which threads are made. */
    readonly usable: number
  }
  readonly memory: {
    readonly totalBytes: number
    /** The cgroup's limit, if there is one below that. */
    readonly limitBytes?: number
    /** What may still be taken. */
    readonly availableBytes: number
  }
  /** Size of /dev/shm, if there is one. */
  readonly devShmBytes?: number
  /** Environment variables that change what pillion or Python does, as far as they are set. */
  readonly variables: Readonly<Record<string, string>>
}

/** What `pillion doctor --json` prints: one object. */
export interface DoctorReport {
  /** Rises when a field changes its meaning or goes; new fields do not raise it. */
  readonly format: 1
  /** Whether the default bridge works, or the one that `--bridge` names. The exit status is 0 if so, else 1. */
  readonly healthy: boolean
  readonly pillion: {
    readonly version: string
    /** The native binary. */
    readonly binary?: {
      readonly path: string
      /** `'package'`: prebuilt. `'checkout'`: built beside the sources. `'variable'`: named by `PILLION_NATIVE_PATH`. */
      readonly from: 'package' | 'checkout' | 'variable'
      /** The platform's name in packages, such as `linux-x64-gnu`. */
      readonly platform: string
      /** As Rust names it, such as `x86_64-unknown-linux-gnu`. */
      readonly target: string
      readonly optimized: boolean
    }
  }
  readonly machine: DoctorMachine
  /** Every Python that could be taken, best first. */
  readonly pythons: readonly DoctorCandidate[]
  /** Each bridge that was tried. */
  readonly bridges: readonly DoctorBridge[]
  readonly libraries?: DoctorLibraries
  /** Worst first. */
  readonly problems: readonly DoctorProblem[]
}

/** The facts that a report is made of. */
export interface DoctorFacts extends Omit<DoctorReport, 'format' | 'healthy' | 'problems'> {
  /** Why there is no binary, or why none of the Pythons can be used. */
  readonly binaryError?: DoctorError
  readonly pythonError?: DoctorError
  /** Why `bridge: 'auto'` found no way. */
  readonly defaultError?: DoctorError
  /** The bridge that `--bridge` names. */
  readonly wanted?: Bridge
}

/** Packages that are looked for, as they are imported, and what people install them as. */
export const packageNames: Readonly<Record<string, string>> = {
  numpy: 'numpy',
  torch: 'torch',
  transformers: 'transformers',
  safetensors: 'safetensors',
  grpc: 'grpcio',
}

/** What is told of packages that are missing, and of which. */
const uses: readonly { readonly names: readonly string[]; readonly use: string }[] = [
  { names: ['torch', 'transformers', 'safetensors'], use: 'no transformers model can be loaded' },
  { names: ['numpy'], use: 'typed arrays cannot be given to models, and no transformers model can be loaded' },
]

const setup = 'run `npx pillion setup`'
const levels = ['error', 'warning', 'note']

/** The report, with what is wrong and what to do about it. */
export function makeReport(facts: DoctorFacts): DoctorReport {
  const { binaryError: _, pythonError: __, defaultError: ___, wanted: ____, ...shown } = facts
  const found = [
    ...binaryProblems(facts),
    ...pythonProblems(facts),
    ...bridgeProblems(facts),
    ...libraryProblems(facts),
    ...machineProblems(facts),
  ]
  const problems = found.sort((a, b) => levels.indexOf(a.level) - levels.indexOf(b.level))
  return { format: 1, healthy: problems.every(({ level }) => level !== 'error'), ...shown, problems }
}

/** The Python that the report is about: the embedded bridge's, else the one that the worker processes would have. */
export function pythonInUse(pythons: readonly DoctorCandidate[]): DoctorCandidate | undefined {
  return pythons.find(({ chosen }) => chosen) ?? workerPython(pythons)
}

/** The Python that a worker process would have. It needs no shared library. One that was named has no substitute. */
export function workerPython(pythons: readonly DoctorCandidate[]): DoctorCandidate | undefined {
  const named = pythons.find(({ source }) => source === 'option' || source === 'PILLION_PYTHON')
  const usable = (candidate: DoctorCandidate): boolean =>
    candidate.executable !== null && (candidate.problem === null || candidate.problem.code === 'python_library_missing')
  return (named === undefined ? pythons : [named]).find(usable)
}

function binaryProblems({ binaryError, pillion }: DoctorFacts): DoctorProblem[] {
  if (binaryError !== undefined) return [{ level: 'error', part: 'binary', ...binaryError }]
  if (pillion.binary?.optimized !== false) return []
  const message = 'the native binary was built without optimisation; what is measured with it says nothing'
  return [{ level: 'warning', part: 'binary', message, remedy: 'build it with `npm run build`' }]
}

function pythonProblems({ pythonError, pythons, bridges }: DoctorFacts): DoctorProblem[] {
  const chosen = pythons.find((candidate) => candidate.chosen)?.problem
  // It says what it is, but not what is installed: a start-up file of the environment hangs or fails.
  if (chosen != null) return [{ level: 'warning', part: 'python', ...chosen }]
  // A bridge that failed for that reason tells of it.
  if (pythonError === undefined || bridges.some(({ error }) => error?.code === pythonError.code)) return []
  const level = workerPython(pythons) === undefined ? 'error' : 'warning'
  return [{ level, part: 'python', ...pythonError }]
}

function bridgeProblems({ bridges, wanted, defaultError }: DoctorFacts): DoctorProblem[] {
  const failed = bridges.flatMap(({ bridge, error, isDefault }): DoctorProblem[] => {
    if (error === undefined) return []
    return [{ level: isDefault || bridge === wanted ? 'error' : 'warning', part: bridge, ...error }]
  })
  if (defaultError === undefined || wanted !== undefined) return failed
  const isSaid = bridges.some(({ error }) => error?.message === defaultError.message)
  const said = isSaid ? { message: "bridge: 'auto' finds no bridge that works" } : defaultError
  return [{ level: 'error', part: 'default bridge', ...said }, ...failed]
}

function libraryProblems({ libraries, pythons }: DoctorFacts): DoctorProblem[] {
  const python = pythonInUse(pythons)
  const missing = uses.flatMap(({ names, use }): DoctorProblem[] => {
    const lacking = names.filter((name) => python?.packages[name] === null)
    if (lacking.length === 0) return []
    const message = `${lacking.join(', ')} ${lacking.length === 1 ? 'is' : 'are'} not installed: ${use}`
    return [{ level: 'warning', part: 'packages', code: 'python_package_missing', message, remedy: setup }]
  })
  const broken = Object.entries(libraries?.packages ?? {}).flatMap(([name, { error }]): DoctorProblem[] => {
    if (error === null) return []
    const message = `${name} is installed but cannot be imported over the ${libraries?.bridge ?? ''} bridge: ${error}`
    return [
      { level: 'warning', part: 'packages', code: 'python_package_missing', message, remedy: importRemedy(error) },
    ]
  })
  return [...missing, ...broken]
}

function importRemedy(error: string): string {
  return /GLIBCXX|CXXABI|libstdc\+\+/.test(error)
    ? "Node's libstdc++ is older than the one that it needs: use bridge: 'shm', where Python brings its own"
    : `install it again, or make a new environment: ${setup}`
}

const mib = 1024 * 1024

function machineProblems({ machine, libraries }: DoctorFacts): DoctorProblem[] {
  const { cpu, variables, devShmBytes } = machine
  const notes: { message: string; remedy?: string; level?: DoctorProblem['level'] }[] = []
  if (cpu.usable < cpu.cores) {
    const message = `this process may use ${cpu.usable} of ${cpu.cores} cores, by its affinity or the cgroup's quota`
    notes.push({ message: `${message}; so many threads are made` })
  }
  const threads = Number(variables['OMP_NUM_THREADS'])
  if (threads > cpu.usable) {
    notes.push({
      level: 'warning',
      message: `OMP_NUM_THREADS is ${threads}, and ${cpu.usable} cores may be used: threads will wait for each other`,
      remedy: 'unset it, or set it to the number of cores',
    })
  }
  if (variables['PYTHONHOME'] !== undefined) {
    notes.push({ message: 'PYTHONHOME is set; it is ignored, since the interpreter is named by its path' })
  }
  if (variables['LD_PRELOAD'] !== undefined && variables['PILLION_DEEPBIND'] === 'all') {
    notes.push({
      level: 'warning',
      message:
        'LD_PRELOAD together with PILLION_DEEPBIND=all: memory of a preloaded allocator and of libc would be mixed',
      remedy: 'unset PILLION_DEEPBIND',
    })
  }
  if (libraries?.torch != null && devShmBytes !== undefined && devShmBytes <= 64 * mib) {
    notes.push({
      message: `/dev/shm has ${Math.round(devShmBytes / mib)} MiB, which is little for a DataLoader with workers; pillion itself does not use it`,
      remedy: 'with Docker: --shm-size=1g',
    })
  }
  return notes.map((note) => ({ level: 'note', part: 'machine', ...note }))
}
