import { runCall, type Call } from './call'
import { checkMessages, templateJson, templateShape, type ChatMessage, type Template } from './chat'
import { Driver } from './driver'
import { invalidArgument, type ErrorCode } from './errors'
import type { Generation } from './generation'
import { pythonFolder } from './native'
import { callShape, checkArgument, checkOptions, kinds, oneOf, toJson } from './options'
import { packInputs, type PredictResult } from './predict'
import { toIds } from './decode-stream'
import { Tokenizer } from './tokenizer'

/**
 * A way from Rust to Python. `'embedded'`: CPython inside this process, the cheapest; a segfault in Python ends Node. `'shm'`: a
 * supervised Python process over shared memory; if it dies, streams go on in a new one. `'grpc'`: the same over gRPC on a Unix socket, and
 * the way to workers that somebody else started (`workers`); it needs `pip install 'pillion[grpc]'`, and a step costs ten times as much.
 */
export type Bridge = 'embedded' | 'shm' | 'grpc'

/** The bounds of an engine. Full means refused at once. */
export interface Limits {
  /** Tokens of prompt and answer together. Default: the model's own context. */
  readonly maxContext?: number | undefined
  /** Tokens that one step may compute. Default: 2,048. */
  readonly maxBatchTokens?: number | undefined
  /** Requests that run at once, and inputs that one `forward` of a class may get. Default: 32. */
  readonly maxRunning?: number | undefined
  /** Requests that may wait; one more is refused with `queue_full`. Default: 1,024. */
  readonly maxQueuedRequests?: number | undefined
  /** Prompt tokens that may wait, over all waiting requests. Default: 1,048,576. */
  readonly maxQueuedTokens?: number | undefined
  /** Bytes of the inputs of `predict()` that wait or run. Default: 256 MiB. */
  readonly maxQueuedBytes?: number | undefined
  /** Bytes of the KV cache. Default: a quarter of the memory that is free at load. */
  readonly kvCacheBytes?: number | undefined
}

/** The threads that an engine may use. */
export interface Threads {
  /** Threads that tokenize; one pool per process, so the first tokenizer or engine decides. Default: the cores that the process may use. */
  readonly tokenizer?: number | undefined
  /** Threads of one torch operation; set before torch is imported, so the first engine of a process decides. Default: the cores. */
  readonly torch?: number | undefined
}

/** One line for the user's logger. */
export interface LogRecord {
  /** How serious. */
  readonly level: 'debug' | 'info' | 'warn' | 'error'
  /** Which side spoke. */
  readonly source: 'rust' | 'python'
  /** The text. */
  readonly message: string
  /** The request that it is about. */
  readonly requestId?: string
}

/** How far loading has come. */
export interface LoadProgress {
  /** What is being done: `python`, `import`, `weights`, `check`, `warmup`. */
  readonly stage: string
  /** How much of it is done, in the stage's own unit. */
  readonly done: number
  /** How much there is to do, if that is known. */
  readonly total?: number
}

/** What to load, and how. */
export interface EngineOptions extends Call {
  /**
   * A folder with `config.json` and safetensors weights, or an id such as `org/name` that is in the local Hugging Face cache already
   * (nothing is downloaded).
   *
   * `{ class }` is a Python class with `load` and `forward`, for {@link Engine.predict}: `'path/to/file.py:Name'`, or
   * `'package.module:Name'` of a module that is installed or in the working directory; `options`, anything that JSON carries, is what
   * it finds as `context.options`.
   *
   * `{ echo: {} }` is a model that repeats the prompt, byte by byte, or the input, and needs no Python; `stepMs` is how long each of its
   * steps takes (milliseconds, default 0).
   */
  readonly model:
    | string
    | { readonly class: string; readonly options?: unknown }
    | { readonly echo: { readonly stepMs?: number | undefined } }
  /**
   * The Python interpreter: a path, a virtual environment's folder or a command. Default: `PILLION_PYTHON`, else `VIRTUAL_ENV`, else
   * `CONDA_PREFIX`, else the nearest `.venv` upward from the working directory, else `python3`.
   */
  readonly python?: string | undefined
  /**
   * The way to Python. `PILLION_BRIDGE` overrides `'auto'`. Default: `'auto'`, the first of `'embedded'`, `'shm'` and `'grpc'` that can be
   * used; `status().fallbacks` and the log say why another one could not.
   */
  readonly bridge?: 'auto' | Bridge | undefined
  /**
   * How many Python processes, which is 1 in this version; or the address of one that was started with
   * `python -m pillion.worker --listen unix:/path --model DIR`. Such a worker is not ended with the engine, and keeps its weights for
   * the next one. It must have been given the same model. Default: 1.
   */
  readonly workers?: number | readonly string[] | undefined
  /** Whether a worker named in `workers` that is not there is started. It outlives this process. Default: false. */
  readonly startWorkers?: boolean | undefined
  /** A torch device, such as `'cpu'` or `'cuda:0'`. Default: the best there is. */
  readonly device?: string | undefined
  /** A torch dtype, such as `'float32'`. Default: the one that is fast on the device; `status()` tells. */
  readonly dtype?: string | undefined
  /** Whether Python code in the model's folder may run. Default: false. */
  readonly trustRemoteCode?: boolean | undefined
  /** The engine's bounds. */
  readonly limits?: Limits | undefined
  /** How many threads to use. */
  readonly threads?: Threads | undefined
  /** Told how far loading has come. Default: nobody is told. */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined
  /** Takes log lines of both sides. Default: nobody does. */
  readonly logger?: ((record: LogRecord) => void) | undefined
}

/** How to choose tokens and when to stop. A default "of the model" is that of its `generation_config.json`. */
export interface Sampling extends Call {
  /** Tokens to give at most. Default: as many as fit the context. */
  readonly maxTokens?: number | undefined
  /** 0 for greedy, up to 100. Default: of the model, else 0. */
  readonly temperature?: number | undefined
  /** Keep the likeliest tokens that together reach this probability, above 0 and up to 1. Default: of the model, else 1. */
  readonly topP?: number | undefined
  /** Keep this many of the likeliest tokens, 0 for all. Default: of the model, else 0. */
  readonly topK?: number | undefined
  /** Keep tokens at least this likely, relative to the likeliest. Default: of the model, else 0. */
  readonly minP?: number | undefined
  /** Makes sampling repeatable, whatever else runs in the batch. Default: another one each time. */
  readonly seed?: number | undefined
  /** Texts that end the answer and are not part of it; at most 16. Default: none. */
  readonly stop?: string | readonly string[] | undefined
  /** Report each token's log probability, and those of this many alternatives (0 to 20). Default: none. */
  readonly logprobs?: number | undefined
  /** Report token ids. Default: false, or true with `logprobs`. */
  readonly tokens?: boolean | undefined
  /** Go on after an end-of-text token, so that the answer has `maxTokens` tokens; for measurements. Default: false. */
  readonly ignoreEos?: boolean | undefined
  /** Whose share it counts against. Default: nobody's. */
  readonly tenant?: string | undefined
  /** Higher goes first, from -1,000 to 1,000. Default: 0. */
  readonly priority?: number | undefined
  /** The id in errors and logs; 1 to 256 bytes. Default: a random one. */
  readonly requestId?: string | undefined
}

/** A prompt to continue. */
export interface GenerateRequest extends Sampling {
  /** The text, or token ids, which are taken as they are. */
  readonly prompt: string | ArrayLike<number>
  /** Whether the tokenizer's special tokens (BOS) are added to a text. Default: true. */
  readonly addSpecialTokens?: boolean | undefined
}

/** A chat to continue. */
export interface ChatRequest extends Sampling, Template {
  /** The messages, oldest first. */
  readonly messages: readonly ChatMessage[]
}

/** An engine as it is now. */
export interface EngineStatus {
  /** Where in its life. */
  readonly state: 'ready' | 'degraded' | 'draining' | 'closed' | 'failed'
  /** The way to Python; absent for a model that needs none. */
  readonly bridge?: Bridge
  /** Ways that were tried first, and why they could not be used. */
  readonly fallbacks: readonly { readonly bridge: Bridge; readonly code: ErrorCode; readonly reason: string }[]
  /** The model. `tier` is how decode is batched, `tierReason` why a better one was not taken. */
  readonly model: {
    readonly name: string
    readonly tasks: readonly string[]
    readonly tier?: string
    readonly tierReason?: string
    readonly dtype?: string
    readonly device?: string
    /** Tokens that the cache holds, over all requests. */
    readonly kvTokens?: number
    /** Tokens of prompt and answer that one request may have. */
    readonly maxContext?: number
  }
  /** The interpreter, if there is one. */
  readonly python?: {
    readonly executable: string
    readonly version: string
    readonly packages: Readonly<Record<string, string>>
  }
  /** The workers; this process if Python is embedded. */
  readonly workers: readonly {
    readonly pid: number
    readonly state: string
    readonly restarts: number
    readonly rssBytes: number
  }[]
  /** Requests with a slot. */
  readonly running: number
  /** Requests without one. */
  readonly waiting: number
  /** Their prompt tokens. */
  readonly waitingTokens: number
}

/** Counts since the start. */
export interface Metrics {
  /** Only ever rise. */
  readonly counters: Readonly<Record<string, number>>
  /** Rise and fall. */
  readonly gauges: Readonly<Record<string, number>>
  /** The text that a Prometheus server reads. */
  toPrometheus(): string
}

const defaultDrainMs = 5000

/**
 * A loaded model that answers requests, many at a time. It holds a model's memory until `close()`, or until it is forgotten and idle.
 * `I` and `O` are what {@link Engine.predict} takes and gives.
 */
export class Engine<I = unknown, O = unknown> implements AsyncDisposable {
  /** The model's tokenizer, if its folder has one; a Python class has none. */
  readonly tokenizer: Tokenizer | undefined
  readonly #driver: Driver

  private constructor(driver: Driver) {
    this.#driver = driver
    const handle = driver.native.tokenizer()
    this.tokenizer = handle === null ? undefined : Tokenizer.wrap(handle)
  }

  /**
   * Loads a model. The first one also starts Python, in this process and for its whole life.
   * @throws `model_not_found`, `model_load_failed`, `python_not_found` and its kin (whose `remedy` says what to run),
   * `bridge_unavailable`, `invalid_argument`, `deadline_exceeded`, the signal's reason
   */
  static async load<I = unknown, O = unknown>(options: EngineOptions): Promise<Engine<I, O>> {
    checkLoadOptions(options)
    options.signal?.throwIfAborted()
    const driver = new Driver(loadJson(options), options)
    await runCall(
      options,
      () => driver.ready,
      () => void driver.close(0),
    )
    return new Engine<I, O>(driver)
  }

  /**
   * Begins to continue a prompt, and returns at once. An option of an unknown name or the wrong type is thrown; every other error arrives
   * through the run.
   */
  generate(request: GenerateRequest): Generation {
    checkOptions('generate()', request, generateShape)
    const { prompt, addSpecialTokens } = request
    const input = typeof prompt === 'string' ? prompt : toIds('prompt', prompt)
    const [run, id] = this.#driver.begin(request)
    if (id !== undefined) {
      this.#driver.native.generate(id, run.requestId, input, addSpecialTokens ?? true, samplingJson(request))
    }
    return run
  }

  /**
   * Begins to continue a chat, rendered with the model's template, and returns at once. Special tokens that stand in a message are text:
   * they end no turn and open none. Errors as for {@link generate}.
   */
  chat(request: ChatRequest): Generation {
    checkOptions('chat()', request, chatShape)
    checkMessages(request.messages)
    const messages = toJson(request.messages)
    const [run, id] = this.#driver.begin(request)
    if (id !== undefined) {
      const template = templateJson({ ...request, addGenerationPrompt: request.addGenerationPrompt ?? true })
      this.#driver.native.chat(id, run.requestId, messages, template, samplingJson(request))
    }
    return run
  }

  /**
   * Answers one input with a model that is a Python class. Inputs that wait when the model becomes free are given to it together, whoever
   * sent them, up to `limits.maxRunning`.
   *
   * An input is what JSON carries. Typed arrays, as the input or in the fields of an object, become numpy arrays (a {@link Tensor} is one
   * of more than one dimension) and cross as bytes; deeper in an input they are refused. Numpy arrays and torch tensors in a result come
   * back in the same way. Copying the input, and parsing the result, is done on this thread.
   * @throws `python_error` with what `forward` raised, `worker_lost` if the worker ended meanwhile (the input may have been worked on, so it
   * is not tried again), `queue_full`, `deadline_exceeded`, `invalid_argument`, `closed`, `unsupported` by a model of text, the signal's reason
   */
  async predict(input: I, options?: Call): Promise<O> {
    const [result] = await this.#predict('predict()', [input], options)
    if (result === undefined) throw invalidArgument('input', 'one value', input)
    if (!result.ok) throw result.error
    return result.value
  }

  /**
   * As `predict()` for many inputs in one call, each of which succeeds or fails by itself. The call as a whole rejects as `predict()` does
   * if it is refused, aborted or too late.
   */
  async predictBatch(inputs: readonly I[], options?: Call): Promise<PredictResult<O>[]> {
    return await this.#predict('predictBatch()', inputs, options)
  }

  async #predict(where: string, inputs: readonly I[], options: Call | undefined): Promise<PredictResult<O>[]> {
    checkOptions(where, options, callShape)
    checkArgument('inputs', inputs, kinds.array)
    options?.signal?.throwIfAborted()
    if (inputs.length === 0) return []
    const packed = packInputs(inputs)
    return (await this.#driver.predict(packed, options)) as PredictResult<O>[]
  }

  /** The engine as it is now. Reads no Python. */
  status(): EngineStatus {
    const json = this.#driver.native.status()
    const { bridge, ...status } = JSON.parse(json) as Omit<EngineStatus, 'bridge'> & { bridge: Bridge | null }
    return bridge === null ? status : { bridge, ...status }
  }

  /** Counts since the start. */
  metrics(): Metrics {
    const { counters, gauges, prometheus } = JSON.parse(this.#driver.native.metrics()) as Metrics & {
      prometheus: string
    }
    return { counters, gauges, toPrometheus: () => prometheus }
  }

  /**
   * Takes no more requests, lets what runs finish for `drainMs` (milliseconds, default 5,000), ends the rest with finish reason
   * `'abort'`, and unloads the model. Resolves when that is done. Closing twice is fine.
   */
  async close(options?: { readonly drainMs?: number | undefined }): Promise<void> {
    checkOptions('close()', options, { drainMs: kinds.milliseconds })
    await this.#driver.close(options?.drainMs ?? defaultDrainMs)
  }

  /** As `close()`. `await using` needs Node 24. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

const bridges = ['embedded', 'shm', 'grpc'] as const

const loadShape = {
  ...callShape,
  model: kinds.any,
  python: kinds.string,
  bridge: oneOf('auto', ...bridges),
  workers: kinds.countOrStrings,
  startWorkers: kinds.boolean,
  device: kinds.string,
  dtype: kinds.string,
  trustRemoteCode: kinds.boolean,
  limits: kinds.object,
  threads: kinds.object,
  onProgress: kinds.function,
  logger: kinds.function,
}

const limitsShape = {
  maxContext: kinds.count,
  maxBatchTokens: kinds.count,
  maxRunning: kinds.count,
  maxQueuedRequests: kinds.count,
  maxQueuedTokens: kinds.count,
  maxQueuedBytes: kinds.count,
  kvCacheBytes: kinds.count,
}

const threadsShape = { tokenizer: kinds.count, torch: kinds.count }

const samplingShape = {
  ...callShape,
  maxTokens: kinds.number,
  temperature: kinds.number,
  topP: kinds.number,
  topK: kinds.number,
  minP: kinds.number,
  seed: kinds.number,
  stop: kinds.strings,
  logprobs: kinds.number,
  tokens: kinds.boolean,
  ignoreEos: kinds.boolean,
  tenant: kinds.string,
  priority: kinds.number,
  requestId: kinds.string,
}

const generateShape = { ...samplingShape, prompt: kinds.any, addSpecialTokens: kinds.boolean }
const chatShape = { ...samplingShape, ...templateShape, messages: kinds.array }

function checkLoadOptions(options: EngineOptions): void {
  checkArgument('the options of Engine.load()', options, kinds.object)
  checkOptions('Engine.load()', options, loadShape)
  checkOptions('limits', options.limits, limitsShape)
  checkOptions('threads', options.threads, threadsShape)
  const { model } = options as { model: unknown }
  if (typeof model === 'string') return
  if (!kinds.object.test(model)) {
    throw invalidArgument('model', "a model's folder, { class: 'path/to/file.py:Name' } or { echo: {} }", model)
  }
  checkOptions('model', model, { echo: kinds.object, class: kinds.string, options: kinds.any })
  const { echo, class: name, options: given } = model as { echo?: object; class?: string; options?: unknown }
  if (echo !== undefined && name !== undefined) throw invalidArgument('model', 'one of class and echo', model)
  if (given !== undefined) packInputs([given], 'model.options', false)
  checkOptions('model.echo', echo, { stepMs: kinds.milliseconds })
}

function loadJson(options: EngineOptions): string {
  const { model, python, bridge, workers, startWorkers, device, dtype, trustRemoteCode, limits, threads } = options
  const place = { python, bridge, workers, startWorkers, device, dtype, pythonFolder }
  return toJson({ model, trustRemoteCode, limits, threads, ...place })
}

function samplingJson(request: Sampling): string {
  const { maxTokens, temperature, topP, topK, minP, seed, stop, logprobs, ignoreEos, tenant, priority, timeoutMs } =
    request
  return toJson({
    ...{ maxTokens, temperature, topP, topK, minP, seed, logprobs, ignoreEos, tenant, priority, timeoutMs },
    stop: typeof stop === 'string' ? [stop] : stop,
    tokens: request.tokens ?? logprobs !== undefined,
  })
}
