/** Tries the bridges, each in a process of its own and within a bounded time. */

import { fork } from 'node:child_process'
import { join } from 'node:path'
import type { Bridge } from '../engine'
import type { DoctorBridge, DoctorError, DoctorLibraries } from './doctor-report'
import type { TrialMessage, TrialRequest } from './doctor-trial'

/** How one trial went. */
export interface Trial {
  readonly bridge?: Bridge
  readonly python?: string
  readonly loadMs?: number
  readonly roundTrip?: DoctorBridge['roundTrip']
  readonly libraries?: Omit<DoctorLibraries, 'bridge'>
  /** Why it did not get to its end. */
  readonly error?: DoctorError
}

/** What a process has said is read for so long after its end. */
const lastWordsMs = 2000

/** Of what the trial's process wrote to its standard error, this much is quoted. */
const maxQuoted = 600

/** Loads the model over a bridge in another process; never fails and never takes longer than `timeoutMs`. */
export async function tryBridge(request: TrialRequest, timeoutMs: number): Promise<Trial> {
  const file = join(__dirname, 'doctor-trial.cjs')
  const child = fork(file, [JSON.stringify(request)], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
  const heard: TrialMessage[] = []
  const hasToldAll = (): boolean => ['done', 'failed'].includes(heard.at(-1)?.kind ?? '')
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-8 * maxQuoted)))
  child.on('message', (message) => heard.push(message as TrialMessage))
  const timers: NodeJS.Timeout[] = []
  const ended = await new Promise<DoctorError | undefined>((done) => {
    timers.push(setTimeout(() => done(tooLate(request, heard, timeoutMs)), timeoutMs))
    child.once('error', (error) => done({ code: 'internal', message: `no process could be started: ${error.message}` }))
    child.once('exit', (code, signal) => {
      const end = (): void =>
        done(hasToldAll() ? undefined : crashed(request, signal ?? `exit status ${code ?? 0}`, said))
      // Messages and last words may come later than the end, and a process that it has left behind may hold its streams open.
      child.once('close', end)
      timers.push(setTimeout(end, lastWordsMs))
    })
  })
  timers.forEach(clearTimeout)
  // Its worker and whatever that has started die with it.
  child.kill('SIGKILL')
  child.stderr?.destroy()
  return gather(heard, ended)
}

function gather(heard: readonly TrialMessage[], ended: DoctorError | undefined): Trial {
  let trial: Trial = {}
  for (const message of heard) {
    const { kind, ...rest } = message
    if (kind === 'failed') return { ...trial, error: message.error }
    if (kind === 'imported') trial = { ...trial, libraries: rest as Omit<DoctorLibraries, 'bridge'> }
    else trial = { ...trial, ...rest }
  }
  return ended === undefined ? trial : { ...trial, error: ended }
}

function tooLate({ python }: TrialRequest, heard: readonly TrialMessage[], timeoutMs: number): DoctorError {
  const doing: Partial<Record<TrialMessage['kind'], string>> = {
    loaded: 'measuring',
    asked: 'importing packages',
    imported: 'closing',
  }
  const last = heard.at(-1)
  return {
    code: 'deadline_exceeded',
    message: `it was still ${(last && doing[last.kind]) ?? 'loading'} after ${timeoutMs / 1000} s, and was ended`,
    remedy: `see whether \`${python ?? 'python3'} -c "import torch"\` ends, or give it more time with --timeout`,
  }
}

function crashed({ bridge }: TrialRequest, how: string, said: string): DoctorError {
  const tail = said.trim().slice(-maxQuoted)
  return {
    code: 'worker_lost',
    message: `the process that tried it ended with ${how}${tail === '' ? '' : `: ${tail}`}`,
    remedy:
      bridge === 'shm' || bridge === 'grpc'
        ? 'run the same with PYTHONFAULTHANDLER=1 and look at the last lines of its standard error'
        : "use bridge: 'shm', where a crash of Python's ends only its own process",
  }
}

/** A trial as a report has it. */
export function bridgeOf(bridge: Bridge, trial: Trial, isDefault: boolean): DoctorBridge {
  const { python, loadMs, roundTrip, error } = trial
  const works = roundTrip !== undefined
  return {
    ...{ bridge, works, isDefault },
    ...(python === undefined ? {} : { python }),
    ...(loadMs === undefined ? {} : { loadMs }),
    ...(roundTrip === undefined ? {} : { roundTrip }),
    ...(error === undefined ? {} : { error }),
  }
}
