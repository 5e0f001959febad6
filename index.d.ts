// Made from src/ by `npm run build:ts`; do not edit.

/// <reference types="node" />

/** What every long call shares: `signal` and `timeoutMs`. */
/** Options that every long call takes. */
interface Call {
  /** Ends the call; it rejects with `signal.reason`. A signal that is aborted already rejects before any work. Default: none. */
  readonly signal?: AbortSignal | undefined
  /** Milliseconds until the call rejects with `deadline_exceeded`. Default: no bound. */
  readonly timeoutMs?: number | undefined
}

/** Messages and how a template renders them. */
/** One message of a chat, in the shape that chat templates know. */
interface ChatMessage {
  /** `system`, `user`, `assistant`, `tool` ... */
  readonly role: string
  /** The text, or parts of it; parts of other types than `text` are the template's to judge. */
  readonly content?:
    | string
    | null
    | readonly {
        readonly type: string
        readonly text?: string
      }[]
    | undefined
  /** Calls that the assistant made. */
  readonly tool_calls?: readonly object[] | undefined
  /** The call that a message of role `tool` answers. */
  readonly tool_call_id?: string | undefined
}
/** How to render a chat. */
interface Template {
  /** JSON schemas of the tools that the model may call. Default: none. */
  readonly tools?: readonly object[] | undefined
  /** Whether the text ends with the opening of an assistant message. Default: false in `applyChatTemplate`, true in `chat`. */
  readonly addGenerationPrompt?: boolean | undefined
  /** A Jinja template, or the name of one of the model's, instead of the model's default. Default: the model's. */
  readonly template?: string | undefined
  /** Further variables for the template; they win over ours. Default: none. */
  readonly variables?: Readonly<Record<string, unknown>> | undefined
}

/**
 * The error classes and the one place where native data becomes one of them.
 * The list of codes is that of `crates/pillion-core/src/error.rs`; a test compares the two.
 */
/** What went wrong. Test for this, not for the message. */
type ErrorCode =
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
/** What an error is built from; the same shape as the JSON that comes from Rust. */
interface ErrorData {
  code: ErrorCode
  message: string
  retryable?: boolean | undefined
  stage?: string | undefined
  requestId?: string | undefined
  retryAfterMs?: number | undefined
  param?: string | undefined
  remedy?: string | undefined
  cause?: unknown
  python?:
    | {
        pythonType: string
        traceback: string
      }
    | undefined
  worker?:
    | {
        exitCode?: number | undefined
        exitSignal?: string | undefined
        stderrTail: string
      }
    | undefined
}
/** Every error that pillion throws. `code` says what went wrong, `remedy` what to do about it where there is something to do. */
declare class PillionError extends Error {
  /** What went wrong. */
  readonly code: ErrorCode
  /** The step in which it arose: `validate`, `admit`, `tokenize`, `queue`, `load`, `forward`, `update`, `stream` ... */
  readonly stage?: string
  /** The request that failed. */
  readonly requestId?: string
  /** Whether the same call may succeed later without any change. */
  readonly retryable: boolean
  /** When to try again, in milliseconds. */
  readonly retryAfterMs?: number
  /** The option or argument that was refused. */
  readonly param?: string
  /** What to do, as one sentence or command. */
  readonly remedy?: string
  /** @internal Errors are made by pillion. */
  constructor(data: ErrorData)
  /** Like `instanceof`, but true for errors of another copy of the package too. */
  static isInstance(error: unknown): error is PillionError
}
/** Python code raised; `code` is `python_error`, or a more telling one where the exception's meaning is known. */
declare class PythonError extends PillionError {
  /** The exception's class, such as `ValueError`; qualified by its module unless that is `builtins`. */
  readonly pythonType: string
  /** The formatted traceback, the exception's own line included. */
  readonly traceback: string
  /** @internal */
  constructor(
    data: ErrorData & {
      python: NonNullable<ErrorData['python']>
    },
  )
  /** Like `instanceof`, but true for errors of another copy of the package too. */
  static isInstance(error: unknown): error is PythonError
}
/** The Python worker ended while it was needed. Retryable. */
declare class WorkerLostError extends PillionError {
  /** The exit status, if it exited by itself. */
  readonly exitCode?: number
  /** The signal's name, such as `SIGKILL`, if one ended it. */
  readonly exitSignal?: string
  /** The last lines that it wrote to its standard error. */
  readonly stderrTail: string
  /** @internal */
  constructor(data: ErrorData)
  /** Like `instanceof`, but true for errors of another copy of the package too. */
  static isInstance(error: unknown): error is WorkerLostError
}

/** Why an answer ended. An error is never one of these; errors are thrown. */
type FinishReason =
  /** An end-of-text token or a stop string; `stopMatch` says which. */
  | 'stop'
  /** `maxTokens` or the model's context. */
  | 'length'
  /** The model asked for tools. */
  | 'tool-calls'
  /** The caller ended it by `break`, `abort()` or `engine.close()`. */
  | 'abort'
/** What a request used, in tokens. */
interface Usage {
  /** Tokens of the prompt. */
  readonly promptTokens: number
  /** Tokens of the answer, an end-of-text token included. */
  readonly completionTokens: number
  /** Both. */
  readonly totalTokens: number
  /** Tokens of the prompt that were in the cache already. */
  readonly cachedPromptTokens: number
  /** Tokens of the answer that are reasoning. */
  readonly reasoningTokens: number
}
/** How an answer ended. */
interface Finish {
  /** Why. */
  readonly finishReason: FinishReason
  /** The stop string, or the id of the end-of-text token, if the reason is `'stop'`. */
  readonly stopMatch?: string | number
  /** What it used. */
  readonly usage: Usage
  /** Milliseconds: `tokenizeMs`, `queueMs`, and from the call on `firstTokenMs` and `totalMs`. */
  readonly timings: Readonly<Record<string, number>>
}
/** Tokens as flat columns. */
interface TokenData {
  /** The tokens, an end-of-text token included. */
  readonly ids: Uint32Array
  /** The log probability of each token; with `logprobs` only. */
  readonly logprobs?: Float32Array
  /** The likeliest tokens at each position, `logprobs` of them per token. */
  readonly topIds?: Uint32Array
  /** As `topIds`. */
  readonly topLogprobs?: Float32Array
}
/** One part of an answer. */
type Part =
  /** Text since the last part: never half of a character, one part per run and wake-up at most. */
  | {
      readonly type: 'text-delta'
      readonly text: string
      readonly tokens?: TokenData
    }
  /** The end; the last part. */
  | ({
      readonly type: 'finish'
    } & Finish)
/** A whole answer. */
interface Result extends Finish {
  /** The caller's id, or one of ours. */
  readonly requestId: string
  /** The text. */
  readonly text: string
  /** The tokens, if they were asked for. */
  readonly tokens?: TokenData
}
/**
 * A running request. Reading it is optional: `await run.text` without a loop runs at full speed. As an iterable it can be read once;
 * leaving the loop early ends the work. The promises always settle, and never cause an unhandled rejection. Not thenable itself.
 */
interface Generation extends AsyncIterable<Part>, AsyncDisposable {
  /** The caller's id, or one of ours. */
  readonly requestId: string
  /** The text deltas alone; reading it counts as reading the run. */
  readonly textStream: AsyncIterable<string>
  /** The whole text. */
  readonly text: Promise<string>
  /** What it used. */
  readonly usage: Promise<Usage>
  /** Why it ended. */
  readonly finishReason: Promise<FinishReason>
  /** Everything. */
  readonly result: Promise<Result>
  /** What there is now; readable at all times, also after an error. */
  readonly partial: {
    readonly text: string
    readonly usage: Usage
  }
  /**
   * Ends the work; the promises resolve with finish reason `'abort'` and what there is. After the end this does nothing.
   * @param reason taken so that the function can stand where an `AbortController`'s does; it changes nothing
   */
  abort(reason?: unknown): void
}

/**
 * Inputs of `predict` on their way to Rust, and results on their way back: JSON, and the bytes of typed arrays beside it. The other side is
 * `crates/pillion-node/src/predict.rs`.
 */

/** The typed arrays that cross as bytes. */
type TypedArray =
  | Uint8Array
  | Uint8ClampedArray
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | BigUint64Array
  | BigInt64Array
  | Float32Array
  | Float64Array
/**
 * An array of any number of dimensions. One of one dimension comes back as its typed array alone. The memory of a large one that comes back was made
 * outside of V8 and cannot be transferred to another thread; a copy of it (`slice()`) can.
 */
interface Tensor {
  /** The elements in C order: the last index changes fastest. */
  readonly data: TypedArray
  /** The sizes of the dimensions. */
  readonly shape: readonly number[]
}
/** What became of one input. */
type PredictResult<O = unknown> =
  | {
      readonly ok: true
      readonly value: O
    }
  | {
      readonly ok: false
      readonly error: PillionError
    }

/** Ends a batch early. Thread-safe. */
declare class NativeCancel {
  /** Not cancelled. */
  constructor()
  /** Ends the batch soon. */
  cancel(): void
  /** Whether it was. */
  isCancelled(): boolean
}

/** Turns ids into text as they come. */
declare class NativeDecodeStream {
  /** Takes ids; returns the text that is certain. */
  push(ids: Uint32Array): string
  /** Takes one id. */
  pushId(id: number): string
  /** A number for what the stream remembers, -1 for none: an id that leaves it as it was will give the same text again. */
  state(): number
  /** The rest. */
  end(): string
}

/** The texts of one call: strings as UTF-16, `Uint8Array`s as bytes. */
declare class NativeTexts {
  /** An empty arena. */
  constructor()
  /**
   * Copies `texts[from..to]` until at least `enough` UTF-16 units or bytes are copied, or up to a text that is longer than `max_units`.
   * Returns where it stopped.
   */
  push(
    texts: readonly (string | Uint8Array | readonly [string | Uint8Array, string | Uint8Array])[],
    from: number,
    to: number,
    enough: number,
    maxUnits: number,
  ): number
  /** Copies a text, or a further piece of the last one. Pieces of a string may end within a character. */
  piece(piece: string | Uint8Array, continues: boolean): void
  /** Makes the last two texts a pair. */
  pair(): void
  /** Says where in the last text, which is bytes, the texts lie that it holds. */
  rows(rowOffsets: Uint32Array): void
}

/** A tokenizer. */
declare class NativeTokenizer {
  /** Reads a `tokenizer.json`. */
  static fromFile(path: string): Promise<NativeTokenizer>
  /** Reads the text of a `tokenizer.json`. */
  static fromJson(json: NativeTexts): Promise<NativeTokenizer>
  /** Reads a model folder, or the snapshot of a hub id in the local cache. */
  static fromPretrained(name: string): Promise<NativeTokenizer>
  /** Tells the garbage collector what this small object keeps in memory. Called once. */
  tellSize(): void
  /** Which engine runs. */
  engine(): NativeEngineInfo
  /** How many ids have a token. */
  vocabSize(): number
  /** Encodes a text or pair on this thread. Without `options`, `flags` say it all: see `encode_options`. */
  encode(
    text: string | Uint8Array,
    pair: string | Uint8Array | undefined,
    flags: number,
    options?: string | undefined | null,
  ): EncodedColumns
  /** The ids alone: written into `target` if it is long enough, and then how many; otherwise an array of their own. */
  encodeIds(
    text: string | Uint8Array,
    pair: string | Uint8Array | undefined,
    target: Uint32Array,
    flags: number,
    options?: string | undefined | null,
  ): number | Uint32Array
  /** Writes the ids into the caller's array; returns how many. An array that is too short is left as it is. */
  encodeInto(
    text: string | Uint8Array,
    pair: string | Uint8Array | undefined,
    target: Uint32Array,
    flags: number,
    options?: string | undefined | null,
  ): number
  /** Encodes the one text or pair on the pool. */
  encodeAsync(
    texts: NativeTexts,
    flags: number,
    options: string | undefined | null,
    cancel: NativeCancel,
  ): Promise<EncodedColumns>
  /** Encodes a few short texts or pairs on this thread. */
  encodeFew(
    texts: readonly (string | Uint8Array | readonly [string | Uint8Array, string | Uint8Array])[],
    flags: number,
    options?: string | undefined | null,
  ): EncodedBatch
  /** Counts the tokens of a text on this thread. */
  count(text: string | Uint8Array): number
  /** Counts the tokens of all texts on the pool. */
  countBatch(texts: NativeTexts, cancel: NativeCancel): Promise<Uint32Array>
  /** Counts the tokens of a few short texts on this thread. */
  countFew(texts: readonly (string | Uint8Array)[]): Uint32Array
  /** Where to cut a text so that it has at most `max` tokens: the first and the last unit to keep. */
  cutToTokens(text: string | Uint8Array, max: number, left: boolean): Array<number>
  /** The id of a token. */
  tokenToId(token: string): number | null
  /** The token of an id. */
  idToToken(id: number): string | null
  /** The tokens of ids; an id without one gives an empty text. */
  idsToTokens(ids: Uint32Array): Array<string>
  /** The padding token's id, if the tokenizer has one. */
  padId(): number | null
  /** Decodes ids on this thread. */
  decode(ids: Uint32Array, skipSpecialTokens: boolean, cleanUp: boolean): string
  /** Decodes rows of ids on the pool. */
  decodeBatch(
    ids: Uint32Array,
    rowOffsets: Uint32Array,
    skipSpecialTokens: boolean,
    cleanUp: boolean,
    cancel: NativeCancel,
  ): Promise<string[]>
  /** A stream that decodes. */
  decodeStream(skipSpecialTokens: boolean, cleanUp: boolean): NativeDecodeStream
  /** Renders messages; both arguments are JSON. */
  applyChatTemplate(messages: string, options: string): string
}

/** Which engine runs. */
interface NativeEngineInfo {
  /** Its name. */
  name: string
  /** Why a faster one does not. */
  reason?: string
}

/** What encoding gives back: flat typed arrays for the whole batch, and rows as views that are made when asked for. */

/** Columns that are computed only when named in `include`. Each has one entry per token, `offsets` has two. */
interface Columns {
  /** Start and end of each token in its text, in the unit of `offsetUnit`; 0, 0 for tokens that the template added. */
  readonly offsets: Uint32Array
  /** 1 for every token; padding, which `toPadded` adds, has 0. */
  readonly attentionMask: Uint8Array
  /** 1 for tokens that the template added. */
  readonly specialTokensMask: Uint8Array
  /** Which segment of a pair a token belongs to. */
  readonly typeIds: Uint8Array
  /** The word that a token came from, -1 for tokens that the template added. */
  readonly wordIds: Int32Array
}
/** The name of a column. */
type Col = keyof Columns
/** The tokens of one text. */
type Encoding<C extends Col = never> = Readonly<Pick<Columns, C>> & {
  /** The token ids. A view into the batch for rows of a batch. */
  readonly ids: Uint32Array
  /** The tokens as the vocabulary spells them. Costs a JS string per token. */
  tokens(): string[]
  /**
   * Start and end of a token in its text, in the unit of `offsetUnit`.
   * @throws `invalid_argument` if `offsets` was not in `include`, or there is no such token
   */
  span(token: number): [start: number, end: number]
}
/** Options of {@link BatchEncoding.toPadded}. */
interface PadOptions<D extends 'int32' | 'int64' = 'int32'> {
  /** The id that fills up. Default: the tokenizer's own padding token, else 0. */
  readonly padId?: number | undefined
  /** Which end is filled up. Default: `'right'`. */
  readonly side?: 'left' | 'right' | undefined
  /** Tokens per row; longer rows are an error (use `truncation`). Default: the longest row. */
  readonly length?: number | undefined
  /** Rounds the length up to a multiple of this. Default: 1. */
  readonly multipleOf?: number | undefined
  /** The type of the numbers; `'int64'` is what ONNX models mostly want. Default: `'int32'`. */
  readonly dtype?: D | undefined
}
/** The array of a dtype. */
type Ints<D> = D extends 'int64' ? BigInt64Array : Int32Array
/** A rectangle of ids with its mask, row by row. */
interface Padded<D extends 'int32' | 'int64' = 'int32'> {
  readonly shape: [rows: number, cols: number]
  readonly ids: Ints<D>
  readonly attentionMask: Ints<D>
}
/** The tokens of many texts in one flat array: row `i` is `ids.subarray(rowOffsets[i], rowOffsets[i + 1])`. */
type BatchEncoding<C extends Col = never> = Readonly<Pick<Columns, C>> &
  Iterable<Encoding<C>> & {
    /** The token ids of all rows. */
    readonly ids: Uint32Array
    /** Where each row begins in `ids`; one entry more than there are rows. */
    readonly rowOffsets: Uint32Array
    /** The input that each row came from; differs from the row's own number only with `overflow`. */
    readonly sources: Uint32Array
    /** How many rows there are. */
    readonly rows: number
    /**
     * A row as views into this batch; nothing is copied.
     * @throws `invalid_argument` if there is no such row
     */
    row(i: number): Encoding<C>
    /** A rectangle for models that take one. Copies. */
    toPadded<D extends 'int32' | 'int64' = 'int32'>(options?: PadOptions<D>): Padded<D>
  }
/** How a native call hands over an encoding; a column that was not asked for is absent. */
interface EncodedColumns {
  ids: Uint32Array
  offsets?: Uint32Array | undefined
  attentionMask?: Uint8Array | undefined
  specialTokensMask?: Uint8Array | undefined
  typeIds?: Uint8Array | undefined
  wordIds?: Int32Array | undefined
}
/** How a native call hands over a batch. */
interface EncodedBatch extends EncodedColumns {
  rowOffsets: Uint32Array
  sources: Uint32Array
}

/** Ids on their way to text as they come. */

/** Turns ids into text as they come; never gives half of a character. */
interface DecodeStream {
  /** Takes ids; returns the text that is certain now, which may be empty. */
  push(ids: number | ArrayLike<number>): string
  /** Ends the stream; returns the rest, in which an incomplete character is U+FFFD. The stream can be used anew. */
  end(): string
}

/** Texts on their way in: copied on the JS thread, long ones in slices between which the event loop runs. */

/** A text: a string, in which a lone surrogate becomes U+FFFD, or UTF-8 bytes, which must be valid. */
type Text = string | Uint8Array
/**
 * Many texts in one buffer, the cheapest way to hand over many: text `i` is the UTF-8 in `bytes.subarray(rowOffsets[i], rowOffsets[i + 1])`.
 * A call must find both unchanged until its promise settles.
 */
interface PackedTexts {
  /** The UTF-8 of all texts. */
  readonly bytes: Uint8Array
  /** Where each text begins; one entry more than there are texts. */
  readonly rowOffsets: Uint32Array
}

/** How to encode. */
interface EncodeOptions<C extends Col = never> {
  /** Columns to compute besides the ids. Default: none. */
  readonly include?: readonly C[] | undefined
  /** The second text of a pair. Default: none. */
  readonly pair?: Text | undefined
  /** Whether the tokenizer's own special tokens (BOS, `[CLS]` ...) are added. Default: true. */
  readonly addSpecialTokens?: boolean | undefined
  /**
   * Whether special tokens that stand in the text become their ids: none, all, or those named. Leave it for text that
   * users wrote. Default: false.
   */
  readonly parseSpecialTokens?: boolean | readonly string[] | undefined
  /** What `offsets` count. Default: `'utf16'`, so that `text.slice(start, end)` works. */
  readonly offsetUnit?: 'utf16' | 'codepoint' | 'byte' | undefined
  /** Where to cut. Default: nowhere. */
  readonly truncation?: Truncation | undefined
}
/** Where and how to cut what is too long. */
interface Truncation {
  /** Tokens that a row may have, those of the template included. */
  readonly maxLength: number
  /** Which end is cut off. Default: `'right'`. */
  readonly side?: 'left' | 'right' | undefined
  /** Which text of a pair is cut. Default: `'longest-first'`. */
  readonly strategy?: 'longest-first' | 'only-first' | 'only-second' | undefined
  /** Tokens that a piece repeats from the one before; only of use with `overflow`. Default: 0. */
  readonly stride?: number | undefined
  /** Whether what was cut off becomes further rows; batches only. Default: false. */
  readonly overflow?: boolean | undefined
}
/** Told how many texts of a batch are done, at most some dozens of times per batch. */
interface BatchProgress {
  /** Called on the JS thread with the texts done and the texts in all. Default: none. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined
}
/** How to turn ids into text. */
interface DecodeOptions {
  /** Leaves out tokens that the tokenizer's file calls special. Default: false. */
  readonly skipSpecialTokens?: boolean | undefined
  /** Undoes the spaces that simple tokenizers put before punctuation. Default: false. */
  readonly cleanUp?: boolean | undefined
}
/** What `fromPretrained` takes. */
type PretrainedOptions = Call
/** Options of {@link Tokenizer.encodeInto}: those that need no column. */
type EncodeIntoOptions = Omit<EncodeOptions, 'include' | 'offsetUnit'>
/**
 * A tokenizer, immutable: settings such as truncation and padding are per call. It needs no Python. Its memory is freed when
 * it is garbage.
 */
declare class Tokenizer {
  #private
  /** Which engine runs, and why the faster one does not where it does not. */
  readonly engine: {
    readonly name: 'pillion' | 'tokenizers'
    readonly reason?: string
  }
  /** How many ids have a token, added tokens included. */
  readonly vocabSize: number
  private constructor()
  /** @internal The handle that an engine has loaded already. */
  static wrap(handle: NativeTokenizer): Tokenizer
  /**
   * Reads a `tokenizer.json`. It has no chat template; {@link fromPretrained} reads that too.
   * @throws `model_not_found` if there is no such file, `invalid_tokenizer` if it cannot be read as one
   */
  static fromFile(path: string | URL, options?: Call): Promise<Tokenizer>
  /**
   * Reads the text of a `tokenizer.json`.
   * @throws `invalid_tokenizer` if it cannot be read as one
   */
  static fromJSON(json: Text, options?: Call): Promise<Tokenizer>
  /**
   * Reads the tokenizer of a model folder: `tokenizer.json`, `tokenizer_config.json` and the chat template. Nothing is
   * downloaded; an id such as `org/name` is looked up in the local Hugging Face cache.
   * @throws `model_not_found` if there is no such folder or no tokenizer in it, `invalid_tokenizer` if it cannot be read
   */
  static fromPretrained(dirOrHubId: string, options?: PretrainedOptions): Promise<Tokenizer>
  /**
   * Encodes a short text at once, on the JS thread.
   * @throws `invalid_argument` for a text of more than 65,536 UTF-16 units (use {@link encodeAsync}) or a bad option
   */
  encode<C extends Col = never>(text: Text, options?: EncodeOptions<C>): Encoding<C>
  /**
   * Encodes a short text at once, on the JS thread, into an array of the caller's; nothing else is made.
   * @returns how many ids were written, from the array's beginning
   * @throws `invalid_argument` for an array that is too short, which is left as it is, for a text of more than 65,536 UTF-16 units or a
   * bad option
   */
  encodeInto(text: Text, ids: Uint32Array, options?: EncodeIntoOptions): number
  /**
   * Encodes a text on the tokenizer's own threads; a very short one at once, where that is cheaper than their wake-up.
   * @throws `invalid_argument` for a bad option, `deadline_exceeded`, the signal's reason; an abort also ends the work
   */
  encodeAsync<C extends Col = never>(text: Text, options?: EncodeOptions<C> & Call): Promise<Encoding<C>>
  /**
   * Encodes many texts, or pairs, in parallel on the tokenizer's own threads, into one flat array; very few and short ones at once. The
   * fastest way to encode: while the threads work on some texts, the next are copied, so `texts` must stay as they are until the promise
   * settles.
   * @throws `invalid_argument` for a bad option or text, `deadline_exceeded`, the signal's reason; an abort also ends the work
   */
  encodeBatch<C extends Col = never>(
    texts: readonly (Text | readonly [Text, Text])[] | PackedTexts,
    options?: Omit<EncodeOptions<C>, 'pair'> & Call & BatchProgress,
  ): Promise<BatchEncoding<C>>
  /**
   * Counts the tokens of a short text, special tokens of the template included, without handing them over.
   * @throws `invalid_argument` for a text of more than 65,536 UTF-16 units (use {@link countBatch})
   */
  count(text: Text): number
  /**
   * Counts the tokens of many texts in parallel.
   * @throws `invalid_argument` for a bad text, `deadline_exceeded`, the signal's reason; an abort also ends the work
   */
  countBatch(texts: readonly Text[] | PackedTexts, options?: Call): Promise<Uint32Array>
  /**
   * Whether a text has at most `max` tokens, special tokens of the template included.
   * @throws `invalid_argument` for a text of more than 65,536 UTF-16 units (use {@link countBatch})
   */
  fits(text: Text, max: number): boolean
  /**
   * The longest beginning (or, with `side: 'left'`, end) of a text that has at most `max` tokens, special tokens of the template
   * included, so that it {@link fits}. Never cuts a character.
   * @param options `side`: which end is cut off. Default: `'right'`
   * @throws `invalid_argument` for a text of more than 65,536 UTF-16 units
   */
  truncateToTokens(
    text: Text,
    max: number,
    options?: {
      readonly side?: 'left' | 'right' | undefined
    },
  ): string
  /** The id of a token as the vocabulary spells it, or `undefined`. */
  tokenToId(token: string): number | undefined
  /** The token of an id as the vocabulary spells it, or `undefined`. */
  idToToken(id: number): string | undefined
  /**
   * Decodes a short list of ids at once, on the JS thread. An id that no token has gives nothing.
   * @throws `invalid_argument` for more than 65,536 ids (use {@link decodeBatch}) or what is no id
   */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string
  /**
   * Decodes many rows of ids in parallel. An id that no token has gives nothing.
   * @throws `invalid_argument` for what is no id, `deadline_exceeded`, the signal's reason
   */
  decodeBatch(
    rows: Pick<BatchEncoding, 'ids' | 'rowOffsets'> | readonly ArrayLike<number>[],
    options?: DecodeOptions & Call,
  ): Promise<string[]>
  /** A stream that turns ids into text as they come. The cost of a token does not grow with the history. */
  decodeStream(options?: DecodeOptions): DecodeStream
  /**
   * Renders messages with the model's chat template. Encode the text with `addSpecialTokens: false` and `parseSpecialTokens: true`:
   * the template writes the special tokens itself. `engine.chat` does all of this, and keeps special tokens in messages apart.
   * @throws `unsupported` if the model has no template and none is given, `invalid_argument` if the template refuses the messages
   */
  applyChatTemplate(messages: readonly ChatMessage[], options?: Template): string
}

/**
 * A way from Rust to Python. `'embedded'`: CPython inside this process, the cheapest; a segfault in Python ends Node. `'shm'`: a
 * supervised Python process over shared memory; if it dies, streams go on in a new one. `'grpc'`: the same over gRPC on a Unix socket, and
 * the way to workers that somebody else started (`workers`); it needs `pip install 'pillion[grpc]'`, and a step costs ten times as much.
 */
type Bridge = 'embedded' | 'shm' | 'grpc'
/** The bounds of an engine. Full means refused at once. */
interface Limits {
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
interface Threads {
  /** Threads that tokenize; one pool per process, so the first tokenizer or engine decides. Default: the cores that the process may use. */
  readonly tokenizer?: number | undefined
  /** Threads of one torch operation; set before torch is imported, so the first engine of a process decides. Default: the cores. */
  readonly torch?: number | undefined
}
/** One line for the user's logger. */
interface LogRecord {
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
interface LoadProgress {
  /** What is being done: `python`, `import`, `weights`, `check`, `warmup`. */
  readonly stage: string
  /** How much of it is done, in the stage's own unit. */
  readonly done: number
  /** How much there is to do, if that is known. */
  readonly total?: number
}
/** What to load, and how. */
interface EngineOptions extends Call {
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
    | {
        readonly class: string
        readonly options?: unknown
      }
    | {
        readonly echo: {
          readonly stepMs?: number | undefined
        }
      }
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
interface Sampling extends Call {
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
interface GenerateRequest extends Sampling {
  /** The text, or token ids, which are taken as they are. */
  readonly prompt: string | ArrayLike<number>
  /** Whether the tokenizer's special tokens (BOS) are added to a text. Default: true. */
  readonly addSpecialTokens?: boolean | undefined
}
/** A chat to continue. */
interface ChatRequest extends Sampling, Template {
  /** The messages, oldest first. */
  readonly messages: readonly ChatMessage[]
}
/** An engine as it is now. */
interface EngineStatus {
  /** Where in its life. */
  readonly state: 'ready' | 'degraded' | 'draining' | 'closed' | 'failed'
  /** The way to Python; absent for a model that needs none. */
  readonly bridge?: Bridge
  /** Ways that were tried first, and why they could not be used. */
  readonly fallbacks: readonly {
    readonly bridge: Bridge
    readonly code: ErrorCode
    readonly reason: string
  }[]
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
interface Metrics {
  /** Only ever rise. */
  readonly counters: Readonly<Record<string, number>>
  /** Rise and fall. */
  readonly gauges: Readonly<Record<string, number>>
  /** The text that a Prometheus server reads. */
  toPrometheus(): string
}
/**
 * A loaded model that answers requests, many at a time. It holds a model's memory until `close()`, or until it is forgotten and idle.
 * `I` and `O` are what {@link Engine.predict} takes and gives.
 */
declare class Engine<I = unknown, O = unknown> implements AsyncDisposable {
  #private
  /** The model's tokenizer, if its folder has one; a Python class has none. */
  readonly tokenizer: Tokenizer | undefined
  private constructor()
  /**
   * Loads a model. The first one also starts Python, in this process and for its whole life.
   * @throws `model_not_found`, `model_load_failed`, `python_not_found` and its kin (whose `remedy` says what to run),
   * `bridge_unavailable`, `invalid_argument`, `deadline_exceeded`, the signal's reason
   */
  static load<I = unknown, O = unknown>(options: EngineOptions): Promise<Engine<I, O>>
  /**
   * Begins to continue a prompt, and returns at once. An option of an unknown name or the wrong type is thrown; every other error arrives
   * through the run.
   */
  generate(request: GenerateRequest): Generation
  /**
   * Begins to continue a chat, rendered with the model's template, and returns at once. Special tokens that stand in a message are text:
   * they end no turn and open none. Errors as for {@link generate}.
   */
  chat(request: ChatRequest): Generation
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
  predict(input: I, options?: Call): Promise<O>
  /**
   * As `predict()` for many inputs in one call, each of which succeeds or fails by itself. The call as a whole rejects as `predict()` does
   * if it is refused, aborted or too late.
   */
  predictBatch(inputs: readonly I[], options?: Call): Promise<PredictResult<O>[]>
  /** The engine as it is now. Reads no Python. */
  status(): EngineStatus
  /** Counts since the start. */
  metrics(): Metrics
  /**
   * Takes no more requests, lets what runs finish for `drainMs` (milliseconds, default 5,000), ends the rest with finish reason
   * `'abort'`, and unloads the model. Resolves when that is done. Closing twice is fine.
   */
  close(options?: { readonly drainMs?: number | undefined }): Promise<void>
  /** As `close()`. `await using` needs Node 24. */
  [Symbol.asyncDispose](): Promise<void>
}

/** What `pillion doctor` finds, as `--json` prints it, and what is made of it: pure functions of the facts. */

/** An error as it arrived, in the words of the one who met it. */
interface DoctorError {
  readonly code: ErrorCode
  readonly message: string
  /** What to do, as one sentence or command. */
  readonly remedy?: string
}
/** A Python that could be taken, as the native side tells of it. */
interface DoctorCandidate {
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
interface DoctorBridge {
  readonly bridge: Bridge
  readonly works: boolean
  /** Whether `bridge: 'auto'` takes it here. */
  readonly isDefault: boolean
  /** The interpreter that ran. */
  readonly python?: string
  /** Milliseconds that `Engine.load` took, Python's own start included. */
  readonly loadMs?: number
  /** Of `predict()` on one number: JS to Python and back. */
  readonly roundTrip?: {
    readonly count: number
    readonly p50Us: number
    readonly p99Us: number
  }
  /** Why it does not work. */
  readonly error?: DoctorError
}
/** What the numeric libraries do when they are imported over the default bridge. */
interface DoctorLibraries {
  /** The bridge that they were imported over. */
  readonly bridge: Bridge
  readonly packages: Readonly<
    Record<
      string,
      {
        readonly version: string | null
        readonly error: string | null
      }
    >
  >
  readonly torch: {
    readonly threads: number
    /** The best instruction set that torch's kernels use. */
    readonly cpu: string
    readonly mps: boolean
    readonly cuda: {
      /** The CUDA or ROCm version that torch is built for. */
      readonly built: string | null
      readonly devices: readonly {
        readonly name: string
        readonly memoryBytes: number
      }[]
      /** Why there is none. */
      readonly reason: string | null
    }
  } | null
}
/** Something to know. An error makes the report unhealthy; a warning says what will not work; a note may explain a surprise. */
interface DoctorProblem {
  readonly level: 'error' | 'warning' | 'note'
  /** What it is about. */
  readonly part: 'binary' | 'python' | 'packages' | 'machine' | 'default bridge' | Bridge
  readonly code?: ErrorCode
  readonly message: string
  readonly remedy?: string
}
/** The machine as this process sees it. */
interface DoctorMachine {
  /** As `process.platform` and `process.arch` name it. */
  readonly platform: string
  readonly kernel: string
  /** Linux only. */
  readonly libc?: {
    readonly name: 'glibc' | 'musl'
    readonly version?: string
  }
  readonly node: {
    readonly version: string
    readonly path: string
  }
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
interface DoctorReport {
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

export {
  type BatchEncoding,
  type BatchProgress,
  type Bridge,
  type Call,
  type ChatMessage,
  type ChatRequest,
  type Col,
  type Columns,
  type DecodeOptions,
  type DecodeStream,
  type DoctorReport,
  type EncodeIntoOptions,
  type EncodeOptions,
  type Encoding,
  Engine,
  type EngineOptions,
  type EngineStatus,
  type ErrorCode,
  type Finish,
  type FinishReason,
  type GenerateRequest,
  type Generation,
  type Ints,
  type Limits,
  type LoadProgress,
  type LogRecord,
  type Metrics,
  type PackedTexts,
  type PadOptions,
  type Padded,
  type Part,
  PillionError,
  type PredictResult,
  type PretrainedOptions,
  PythonError,
  type Result,
  type Sampling,
  type Template,
  type Tensor,
  type Text,
  type Threads,
  type TokenData,
  Tokenizer,
  type Truncation,
  type TypedArray,
  type Usage,
  WorkerLostError,
}
