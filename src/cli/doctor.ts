/** `pillion doctor`: what pillion has to run on here, whether it runs, and what to do if it does not. */

import type { Bridge } from '../engine'
import { native, nativeOrigin, target, version } from '../native'
import { bridgeOf, tryBridge, type Trial } from './doctor-bridges'
import { describeMachine } from './doctor-machine'
import {
  asDoctorError,
  makeReport,
  packageNames,
  pythonInUse,
  workerPython,
  type DoctorCandidate,
  type DoctorError,
  type DoctorFacts,
} from './doctor-report'
import { reportText } from './doctor-text'
import { say } from './say'

export interface DoctorOptions {
  /** As in `Engine.load`. */
  readonly python: string | undefined
  /** The only bridge to try, and the one that health is about. */
  readonly bridge: Bridge | undefined
  /** How long each thing that is tried may take. */
  readonly timeoutMs: number
  readonly json: boolean
}

/** In the order in which `auto` takes them. */
export const bridges = ['embedded', 'shm', 'grpc'] as const

/** Prints the report and gives the exit status: 0 if it is healthy, else 1. */
export async function doctor(options: DoctorOptions): Promise<0 | 1> {
  const report = makeReport(await gather(options))
  process.stdout.write(options.json ? `${JSON.stringify(report, null, 2)}\n` : reportText(report))
  return report.healthy ? 0 : 1
}

interface Survey {
  readonly candidates: readonly DoctorCandidate[]
  readonly problem: DoctorError | null
}

async function gather(options: DoctorOptions): Promise<DoctorFacts> {
  const wanted = options.bridge === undefined ? {} : { wanted: options.bridge }
  let about
  try {
    about = native().about()
  } catch (error) {
    const facts = { pillion: { version }, machine: describeMachine(undefined), pythons: [], bridges: [] }
    return { ...facts, ...wanted, binaryError: asDoctorError(error, 'native_load_failed') }
  }
  const { target: built, optimized, cores } = about
  const binary = { ...nativeOrigin(), platform: target(), target: built, optimized }
  const facts = { pillion: { version, binary }, machine: describeMachine(cores), ...wanted }

  progress('looking for Python')
  const survey = await surveyPythons(options)
  const pythons = survey.candidates.map(cleanCandidate)
  const pythonError = survey.problem === null ? {} : { pythonError: cleanError(survey.problem) }
  const tried = await tryBridges(pythons, options)
  return { ...facts, pythons, ...pythonError, ...tried }
}

async function surveyPythons({ python, timeoutMs }: DoctorOptions): Promise<Survey> {
  const request = { python, packages: Object.keys(packageNames), timeoutMs }
  return JSON.parse(await native().surveyPythons(JSON.stringify(request))) as Survey
}

type Tried = Pick<DoctorFacts, 'bridges' | 'libraries' | 'defaultError'>

/** First the one that `auto` takes, then the others. None if there is no interpreter to try them with. */
async function tryBridges(pythons: readonly DoctorCandidate[], options: DoctorOptions): Promise<Tried> {
  // By name, so that a candidate that never answers is not waited for again.
  const embedded = pythonInUse(pythons)
  const worker = workerPython(pythons)
  if (embedded === undefined) return { bridges: [] }
  const attempt = async (bridge: 'auto' | Bridge, packages: readonly string[]): Promise<Trial> => {
    progress(`trying bridge ${bridge}`)
    const python = bridge === 'auto' || bridge === 'embedded' ? embedded : (worker ?? embedded)
    return await tryBridge({ bridge, python: python.path, packages }, options.timeoutMs)
  }
  const installed = Object.entries(embedded.packages).flatMap(([name, version]) => (version === null ? [] : [name]))
  const first = await attempt(
    options.bridge ?? 'auto',
    installed.filter((name) => name !== 'grpc'),
  )
  const taken = first.roundTrip === undefined ? options.bridge : first.bridge
  const found = []
  for (const bridge of options.bridge === undefined ? bridges : [options.bridge]) {
    const trial = bridge === taken ? first : await attempt(bridge, [])
    found.push(bridgeOf(bridge, trial, options.bridge === undefined && bridge === taken))
  }
  const libraries =
    first.libraries === undefined || first.bridge === undefined
      ? {}
      : { libraries: { bridge: first.bridge, ...first.libraries } }
  const failed = first.error !== undefined && taken === undefined ? { defaultError: first.error } : {}
  return { bridges: found, ...libraries, ...failed }
}

/** As the report has it: what Rust adds to an error says nothing here. */
function cleanCandidate(candidate: DoctorCandidate): DoctorCandidate {
  return { ...candidate, problem: candidate.problem === null ? null : cleanError(candidate.problem) }
}

function cleanError({ code, message, remedy }: DoctorError): DoctorError {
  return remedy === undefined ? { code, message } : { code, message, remedy }
}

/** For those who watch; what is piped has only the report. */
function progress(text: string): void {
  if (process.stderr.isTTY) say(`${text} ...`)
}
