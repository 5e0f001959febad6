import { expectTypeOf, test } from 'vitest'
import {
  Engine,
  PillionError,
  PythonError,
  Tokenizer,
  type BatchEncoding,
  type Encoding,
  type ErrorCode,
  type Generation,
  type Part,
  type PredictResult,
} from '../src/index'

declare const tokenizer: Tokenizer
declare const engine: Engine
declare const batch: BatchEncoding

test('a column that was not asked for does not exist', () => {
  const plain = tokenizer.encode('a')
  expectTypeOf(plain).toEqualTypeOf<Encoding>()
  expectTypeOf(plain.ids).toEqualTypeOf<Uint32Array>()
  expectTypeOf(plain).not.toHaveProperty('offsets')
  const some = tokenizer.encode('a', { include: ['offsets', 'wordIds'] })
  expectTypeOf(some.offsets).toEqualTypeOf<Uint32Array>()
  expectTypeOf(some.wordIds).toEqualTypeOf<Int32Array>()
  expectTypeOf(some).not.toHaveProperty('typeIds')
  // @ts-expect-error there is no such column
  tokenizer.encode('a', { include: ['ofsets'] })
})

test('batches and their rows have the columns too', () => {
  const encoded = tokenizer.encodeBatch(['a', ['b', 'c'], new Uint8Array()], { include: ['offsets'] })
  expectTypeOf(encoded).resolves.toEqualTypeOf<BatchEncoding<'offsets'>>()
  expectTypeOf<BatchEncoding<'offsets'>['row']>().returns.toEqualTypeOf<Encoding<'offsets'>>()
  expectTypeOf<BatchEncoding>().toExtend<Iterable<Encoding>>()
})

test('padding has the type of its dtype', () => {
  expectTypeOf(batch.toPadded().ids).toEqualTypeOf<Int32Array>()
  expectTypeOf(batch.toPadded({ dtype: 'int64' }).attentionMask).toEqualTypeOf<BigInt64Array>()
  expectTypeOf(batch.toPadded().shape).toEqualTypeOf<[rows: number, cols: number]>()
})

test('an option may be undefined', () => {
  tokenizer.encode('a', { include: undefined, truncation: undefined })
  engine.generate({ prompt: 'a', maxTokens: undefined, signal: undefined })
})

test('classes are made by their functions alone', () => {
  // @ts-expect-error use Engine.load
  new Engine()
  // @ts-expect-error use Tokenizer.fromFile
  new Tokenizer()
  // @ts-expect-error it is read-only
  engine.tokenizer = undefined
})

test('options are checked', () => {
  // @ts-expect-error a prompt is needed
  engine.generate({})
  // @ts-expect-error not a number
  engine.generate({ prompt: 'a', maxTokens: '3' })
  // @ts-expect-error no such option
  engine.chat({ messages: [], max_tokens: 3 })
  // @ts-expect-error the deadline of a batch is a number
  void tokenizer.encodeBatch([], { timeoutMs: '1s' })
})

test('a run is an iterable with promises, and no promise', () => {
  const run = engine.generate({ prompt: [1, 2] })
  expectTypeOf(run).toEqualTypeOf<Generation>()
  expectTypeOf(run).toExtend<AsyncIterable<Part>>()
  expectTypeOf(run.text).toEqualTypeOf<Promise<string>>()
  expectTypeOf(run).not.toExtend<PromiseLike<unknown>>()
})

test('parts are told apart by their type', () => {
  const part = {} as Part
  if (part.type === 'text-delta') expectTypeOf(part.text).toEqualTypeOf<string>()
  else expectTypeOf(part.finishReason).toEqualTypeOf<'stop' | 'length' | 'tool-calls' | 'abort'>()
})

declare const sentiment: Engine<{ text: string }, number>

test('predict has the types that the engine was loaded for', () => {
  expectTypeOf(engine.predict(1)).resolves.toEqualTypeOf<unknown>()
  const typed = Engine.load<{ text: string }, number>({ model: { class: 'app.py:Model', options: { k: 1 } } })
  expectTypeOf(typed).resolves.toEqualTypeOf<Engine<{ text: string }, number>>()
  expectTypeOf(sentiment.predict({ text: 'a' })).resolves.toEqualTypeOf<number>()
  expectTypeOf(sentiment.predictBatch([])).resolves.toEqualTypeOf<PredictResult<number>[]>()
  // @ts-expect-error another input
  void sentiment.predict({ txt: 'a' })
  const result = {} as PredictResult<number>
  if (result.ok) expectTypeOf(result.value).toEqualTypeOf<number>()
  else expectTypeOf(result.error).toEqualTypeOf<PillionError>()
})

test('isInstance narrows', () => {
  const error: unknown = undefined
  if (PythonError.isInstance(error)) expectTypeOf(error.traceback).toEqualTypeOf<string>()
  else if (PillionError.isInstance(error)) expectTypeOf(error.code).toEqualTypeOf<ErrorCode>()
})
