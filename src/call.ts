/** What every long call shares: `signal` and `timeoutMs`. */

import { PillionError, describe, errorFromNative } from './errors'

/** Options that every long call takes. */
export interface Call {
  /** Ends the call; it rejects with `signal.reason`. A signal that is aborted already rejects before any work. Default: none. */
  readonly signal?: AbortSignal | undefined
  /** Milliseconds until the call rejects with `deadline_exceeded`. Default: no bound. */
  readonly timeoutMs?: number | undefined
}

/**
 * Runs `start` and settles with its outcome, or earlier when the signal is aborted or the time is up; then `cancel` is told,
 * and what `start` still does is ignored.
 */
export async function runCall<T>(call: Call | undefined, start: () => Promise<T>, cancel?: () => void): Promise<T> {
  const signal = call?.signal
  const timeoutMs = call?.timeoutMs
  signal?.throwIfAborted()
  if (signal === undefined && timeoutMs === undefined) return await settled(start())

  return await new Promise<T>((resolve, reject) => {
    let timer: NodeJS.Timeout | undefined
    const finish = (): void => {
      signal?.removeEventListener('abort', onAbort)
      clearTimeout(timer)
    }
    const giveUp = (reason: unknown): void => {
      finish()
      cancel?.()
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the caller's own reason
      reject(reason)
    }
    const onAbort = (): void => {
      giveUp(signal?.reason)
    }
    signal?.addEventListener('abort', onAbort)
    if (timeoutMs !== undefined) timer = setTimer(timeoutMs, () => giveUp(deadlineExceeded(timeoutMs)))
    settled(start()).then(
      (value) => {
        finish()
        resolve(value)
      },
      (error: unknown) => {
        finish()
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- made an Error in `settled`
        reject(error)
      },
    )
  })
}

/** A timer that may be longer than the 24.8 days of Node's own; beyond that nobody waits for it. */
function setTimer(ms: number, then: () => void): NodeJS.Timeout {
  return setTimeout(then, Math.min(ms, 2 ** 31 - 1))
}

function deadlineExceeded(timeoutMs: number): PillionError {
  return new PillionError({
    code: 'deadline_exceeded',
    message: `the call took longer than its timeoutMs of ${timeoutMs}`,
    param: 'timeoutMs',
  })
}

async function settled<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise
  } catch (error) {
    throw errorFromNative(error)
  }
}

/** Calls native code that answers at once. */
export function callNative<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw errorFromNative(error)
  }
}

/** Calls a listener of the user's. If that fails, it is reported as a warning: the work that it listens to goes on. */
export function tell<A extends readonly unknown[]>(listener: ((...values: A) => void) | undefined, ...values: A): void {
  try {
    listener?.(...values)
  } catch (error) {
    process.emitWarning(error instanceof Error ? error : `a listener threw ${describe(error)}`)
  }
}
