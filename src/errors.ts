/**
 * The error classes and the one place where native data becomes one of them.
 * The list of codes is that of `crates/pillion-core/src/error.rs`; a test compares the two.
 */

/** What went wrong. Test for this, not for the message. */
export type ErrorCode =
  /** A value that the call does not take; `param` names it. */
  | 'invalid_argument'
  /** A tokenizer file that cannot be read as one. */
  | 'invalid_tokenizer'
  /** Something that this build, model or platform does not do. */
  | 'unsupported'
  /** Prompt and requested tokens do not fit the model's context. */
  | 'context_length_exceeded'
  /** An input that does not fit the model's declared schema. */
  | 'schema_violation'
  /** The native binary could not be loaded; the message lists what was tried. */
  | 'native_load_failed'
  /** No Python interpreter was found. */
  | 'python_not_found'
  /** The interpreter is too old, free-threaded or not CPython. */
  | 'python_unsupported'
  /** The interpreter has no shared libpython to load. */
  | 'python_library_missing'
  /** A Python package that the model needs is not installed. */
  | 'python_package_missing'
  /** The model folder, or its weights, are not there. */
  | 'model_not_found'
  /** The model is there but did not load. */
  | 'model_load_failed'
  /** The asked-for way to Python cannot be used here. */
  | 'bridge_unavailable'
  /** Two parts of pillion have different versions. */
  | 'version_mismatch'
  /** As many requests or tokens wait as may wait. Retryable. */
  | 'queue_full'
  /** The caller has used up its share. Retryable. */
  | 'rate_limited'
  /** `timeoutMs` passed before the answer was there. Retryable. */
  | 'deadline_exceeded'
  /** Python code raised; the error is a {@link PythonError}. */
  | 'python_error'
  /** The Python worker ended; the error is a {@link WorkerLostError}. Retryable. */
  | 'worker_lost'
  /** Host or device memory ran out. Retryable. */
  | 'out_of_memory'
  /** The engine or stream has been closed. */
  | 'closed'
  /** A bug of ours. */
  | 'internal'

/** Every code, with its own answer to "may the same call succeed later without any change?". */
export const retryableByCode: Readonly<Record<ErrorCode, boolean>> = {
  invalid_argument: false,
  invalid_tokenizer: false,
  unsupported: false,
  context_length_exceeded: false,
  schema_violation: false,
  native_load_failed: false,
  python_not_found: false,
  python_unsupported: false,
  python_library_missing: false,
  python_package_missing: false,
  model_not_found: false,
  model_load_failed: false,
  bridge_unavailable: false,
  version_mismatch: false,
  queue_full: true,
  rate_limited: true,
  deadline_exceeded: true,
  python_error: false,
  worker_lost: true,
  out_of_memory: true,
  closed: false,
  internal: false,
}

/** What an error is built from; the same shape as the JSON that comes from Rust. */
export interface ErrorData {
  code: ErrorCode
  message: string
  retryable?: boolean | undefined
  stage?: string | undefined
  requestId?: string | undefined
  retryAfterMs?: number | undefined
  param?: string | undefined
  remedy?: string | undefined
  cause?: unknown
  python?: { pythonType: string; traceback: string } | undefined
  worker?: { exitCode?: number | undefined; exitSignal?: string | undefined; stderrTail: string } | undefined
}

// `Symbol.for`: two copies of the package in one process recognise each other's errors, which `instanceof` does not.
const marks = {
  pillion: Symbol.for('pillion.error'),
  python: Symbol.for('pillion.error.python'),
  workerLost: Symbol.for('pillion.error.worker-lost'),
}

function isMarked(value: unknown, mark: symbol): boolean {
  return typeof value === 'object' && value !== null && (value as Record<symbol, unknown>)[mark] === true
}

function mark(target: object, key: symbol): void {
  Object.defineProperty(target, key, { value: true })
}

/** Every error that pillion throws. `code` says what went wrong, `remedy` what to do about it where there is something to do. */
export class PillionError extends Error {
  /** What went wrong. */
  readonly code: ErrorCode
  /** The step in which it arose: `validate`, `admit`, `tokenize`, `queue`, `load`, `forward`, `update`, `stream` ... */
  declare readonly stage?: string
  /** The request that failed. */
  declare readonly requestId?: string
  /** Whether the same call may succeed later without any change. */
  readonly retryable: boolean
  /** When to try again, in milliseconds. */
  declare readonly retryAfterMs?: number
  /** The option or argument that was refused. */
  declare readonly param?: string
  /** What to do, as one sentence or command. */
  declare readonly remedy?: string

  /** @internal Errors are made by pillion. */
  constructor(data: ErrorData) {
    super(
      data.remedy === undefined ? data.message : `${data.message}\nhint: ${data.remedy}`,
      data.cause === undefined ? undefined : { cause: data.cause },
    )
    this.name = new.target.name
    this.code = data.code
    this.retryable = data.retryable ?? retryableByCode[data.code]
    if (data.stage !== undefined) this.stage = data.stage
    if (data.requestId !== undefined) this.requestId = data.requestId
    if (data.retryAfterMs !== undefined) this.retryAfterMs = data.retryAfterMs
    if (data.param !== undefined) this.param = data.param
    if (data.remedy !== undefined) this.remedy = data.remedy
    mark(this, marks.pillion)
  }

  /** Like `instanceof`, but true for errors of another copy of the package too. */
  static isInstance(error: unknown): error is PillionError {
    return isMarked(error, marks.pillion)
  }
}

/** Python code raised; `code` is `python_error`, or a more telling one where the exception's meaning is known. */
export class PythonError extends PillionError {
  /** The exception's class, such as `ValueError`; qualified by its module unless that is `builtins`. */
  readonly pythonType: string
  /** The formatted traceback, the exception's own line included. */
  readonly traceback: string

  /** @internal */
  constructor(data: ErrorData & { python: NonNullable<ErrorData['python']> }) {
    super(data)
    this.pythonType = data.python.pythonType
    this.traceback = data.python.traceback
    mark(this, marks.python)
  }

  /** Like `instanceof`, but true for errors of another copy of the package too. */
  static override isInstance(error: unknown): error is PythonError {
    return isMarked(error, marks.python)
  }
}

/** The Python worker ended while it was needed. Retryable. */
export class WorkerLostError extends PillionError {
  /** The exit status, if it exited by itself. */
  declare readonly exitCode?: number
  /** The signal's name, such as `SIGKILL`, if one ended it. */
  declare readonly exitSignal?: string
  /** The last lines that it wrote to its standard error. */
  readonly stderrTail: string

  /** @internal */
  constructor(data: ErrorData) {
    super(data)
    if (data.worker?.exitCode !== undefined) this.exitCode = data.worker.exitCode
    if (data.worker?.exitSignal !== undefined) this.exitSignal = data.worker.exitSignal
    this.stderrTail = data.worker?.stderrTail ?? ''
    mark(this, marks.workerLost)
  }

  /** Like `instanceof`, but true for errors of another copy of the package too. */
  static override isInstance(error: unknown): error is WorkerLostError {
    return isMarked(error, marks.workerLost)
  }
}

/** The class that fits the data. */
export function errorFromData(data: ErrorData): PillionError {
  if (data.python !== undefined) return new PythonError({ ...data, python: data.python })
  if (data.code === 'worker_lost') return new WorkerLostError(data)
  return new PillionError(data)
}

/** An error that came from Rust as JSON. */
export function errorFromJson(json: string): PillionError {
  const data = parseErrorData(json)
  return data === undefined
    ? new PillionError({ code: 'internal', message: `an error arrived in a form that cannot be read: ${json}` })
    : errorFromData(data)
}

/** What a native call threw or rejected with: its message is an error as JSON, or the text of a caught panic. */
export function errorFromNative(thrown: unknown): unknown {
  if (!(thrown instanceof Error) || PillionError.isInstance(thrown)) return thrown
  const data = parseErrorData(thrown.message)
  if (data !== undefined) return errorFromData(data)
  return new PillionError({
    code: 'internal',
    message: `the native part failed: ${thrown.message}`,
    cause: thrown,
  })
}

function parseErrorData(json: string): ErrorData | undefined {
  if (!json.startsWith('{')) return undefined
  try {
    const data = JSON.parse(json) as ErrorData
    return Object.hasOwn(retryableByCode, data.code) ? data : undefined
  } catch {
    return undefined
  }
}

/** A refused value: names the option, what was expected, and the value that came. */
export function invalidArgument(param: string, expected: string, got: unknown, remedy?: string): PillionError {
  return new PillionError({
    code: 'invalid_argument',
    message: `${param} must be ${expected}, got ${describe(got)}`,
    param,
    remedy,
  })
}

/** A value as an error message shows it: short, and never failing. */
export function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}...` : value)
  if (typeof value === 'function') return 'a function'
  if (typeof value !== 'object' || value === null) return String(value)
  if (Array.isArray(value)) return `an array of ${value.length}`
  const name = (Object.getPrototypeOf(value) as { constructor?: { name?: string } } | null)?.constructor?.name
  return name === undefined || name === 'Object' ? 'an object' : `a ${name}`
}
