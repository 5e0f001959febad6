import { expect, test } from 'vitest'
import { readEvents, type EngineEvent } from '../src/stream'

function words(text: string): number[] {
  const bytes = new TextEncoder().encode(text)
  const padded = new Uint8Array(Math.ceil(bytes.length / 4) * 4)
  padded.set(bytes)
  return [...new Uint32Array(padded.buffer)]
}

function bytes(text: string): number {
  return new TextEncoder().encode(text).length
}

function read(record: number[]): EngineEvent[] {
  const events: EngineEvent[] = []
  readEvents(Uint32Array.from(record), (event) => events.push(event))
  return events
}

const float = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]!

test('an empty record has no events', () => {
  expect(read([])).toEqual([])
})

test('every kind, one after another', () => {
  const text = 'é🌍x'
  const finish = '{"finishReason":"stop"}'
  const events = read([
    ...[1, 7, 4, 3, 2, 2, 2, 4, bytes(text), 0],
    ...[10, 11, float(-0.5), float(-1.5), 20, 21, 22, 23, float(-1), float(-2), float(-3), float(-4)],
    ...words(text),
    ...[1, 8, 1, 3, 9, 0, 0, 0, 0, bytes(finish), ...words(finish)],
    ...[1, 9, 2, 0, 0, 0, 0, 0, 0, bytes('{}'), ...words('{}')],
    ...[2, 0, 0, 0, 0, 0, 0, 0, 0, bytes('{"a":1}'), ...words('{"a":1}')],
    ...[4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...[5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...[3, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...[6, 0, 0, 0, 0, 0, 0, 0, 0, 0],
  ])
  expect(events).toEqual([
    {
      kind: 'run',
      run: 7,
      output: {
        promptTokens: 3,
        completionTokens: 2,
        text,
        tokens: {
          ids: Uint32Array.of(10, 11),
          logprobs: Float32Array.of(-0.5, -1.5),
          topIds: Uint32Array.of(20, 21, 22, 23),
          topLogprobs: Float32Array.of(-1, -2, -3, -4),
        },
      },
    },
    { kind: 'run', run: 8, output: { promptTokens: 3, completionTokens: 9, text: '', finish } },
    { kind: 'run', run: 9, output: { promptTokens: 0, completionTokens: 0, text: '', error: '{}' } },
    { kind: 'progress', json: '{"a":1}' },
    { kind: 'load-failed', json: '' },
    { kind: 'log', json: '' },
    { kind: 'ready' },
    { kind: 'closed' },
  ])
})

test('tokens do not keep the record alive', () => {
  const record = Uint32Array.from([1, 1, 4, 0, 1, 1, 0, 0, 0, 0, 42])
  readEvents(record, (event) => {
    if (event.kind !== 'run') throw new Error('another event')
    expect(event.output.tokens?.ids.buffer).not.toBe(record.buffer)
  })
})
