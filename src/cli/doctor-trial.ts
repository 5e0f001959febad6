/**
 * Loads a small model over one bridge, asks it a few times, and tells the parent how that went. A process of its own, so that a crash or a
 * standstill of Python's ends this process and not the one that reports it.
 */

import { Engine, type Bridge } from '../engine'
import { PillionError } from '../errors'
import { asDoctorError, type DoctorBridge, type DoctorError, type DoctorLibraries } from './doctor-report'

/** What the parent asks for: the first and only argument, as JSON. */
export interface TrialRequest {
  readonly bridge: 'auto' | Bridge
  readonly python?: string | undefined
  /** Packages to import at the end. */
  readonly packages: readonly string[]
}

/** What the parent is told, as it comes. */
export type TrialMessage =
  | ({ readonly kind: 'loaded'; readonly bridge: Bridge } & Pick<DoctorBridge, 'python' | 'loadMs'>)
  | { readonly kind: 'asked'; readonly roundTrip: NonNullable<DoctorBridge['roundTrip']> }
  | ({ readonly kind: 'imported' } & Omit<DoctorLibraries, 'bridge'>)
  | { readonly kind: 'failed'; readonly error: DoctorError }
  | { readonly kind: 'done' }

const warmUp = 50
const maxRoundTrips = 1000
const maxMs = 1000

async function main(request: TrialRequest): Promise<void> {
  const { bridge, python, packages } = request
  const begin = performance.now()
  const model = { class: 'pillion._doctor:Probe' }
  const engine = await Engine.load({ model, bridge, python })
  const status = engine.status()
  if (status.bridge === undefined) throw new Error('a Python model without a bridge: this is a bug')
  const executable = status.python === undefined ? {} : { python: status.python.executable }
  tell({ kind: 'loaded', bridge: status.bridge, ...executable, loadMs: Math.round(performance.now() - begin) })
  tell({ kind: 'asked', roundTrip: await measure(engine) })
  if (packages.length > 0) {
    tell({ kind: 'imported', ...((await engine.predict({ import: packages })) as Omit<DoctorLibraries, 'bridge'>) })
  }
  await engine.close({ drainMs: 0 })
  tell({ kind: 'done' })
}

/** One after the other, with nothing else to do: what an idle engine adds to a call. */
async function measure(engine: Engine): Promise<NonNullable<DoctorBridge['roundTrip']>> {
  for (let i = 0; i < warmUp; i += 1) await check(engine, i)
  const times: number[] = []
  const end = performance.now() + maxMs
  while (times.length < maxRoundTrips && performance.now() < end) {
    const begin = performance.now()
    await check(engine, times.length)
    times.push(performance.now() - begin)
  }
  times.sort((a, b) => a - b)
  const us = (share: number): number => Math.round((times[Math.floor((times.length - 1) * share)] ?? 0) * 10_000) / 10
  return { count: times.length, p50Us: us(0.5), p99Us: us(0.99) }
}

async function check(engine: Engine, input: number): Promise<void> {
  const output = await engine.predict(input)
  if (output === input) return
  throw new PillionError({ code: 'internal', message: `${input} came back as ${JSON.stringify(output)}` })
}

function tell(message: TrialMessage): void {
  process.send?.(message)
}

// Nobody is there to be told.
process.once('disconnect', () => process.exit(1))
main(JSON.parse(process.argv[2] ?? '{}') as TrialRequest)
  .catch((error: unknown) => tell({ kind: 'failed', error: asDoctorError(error) }))
  .finally(() => process.disconnect())
