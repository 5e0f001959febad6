/** The machine as this process sees it: what the system and the environment say, with no child process where it can be helped. */

import { statfsSync } from 'node:fs'
import os from 'node:os'
import { libc } from '../native'
import type { DoctorMachine } from './doctor-report'

/** Variables that change what is found, loaded or measured. None of them holds a secret. */
const telling = [
  ...['PILLION_BRIDGE', 'PILLION_PYTHON', 'PILLION_NATIVE_PATH', 'PILLION_BRIDGE_LIBRARY', 'PILLION_DEEPBIND'],
  ...['VIRTUAL_ENV', 'CONDA_PREFIX', 'PYTHONHOME', 'PYTHONPATH', 'LD_PRELOAD', 'LD_LIBRARY_PATH', 'MALLOC_CONF'],
  ...['OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'NODE_OPTIONS', 'DYLD_INSERT_LIBRARIES'],
] as const

/** `usable` is how many cores the native side may use, if it could be asked. */
export function describeMachine(usable: number | undefined): DoctorMachine {
  const cpus = os.cpus()
  // Where the system does not list them.
  const cores = cpus.length || os.availableParallelism()
  const version = libc()
  const shm = devShmBytes()
  return {
    platform: `${process.platform}-${process.arch}`,
    kernel: `${os.type()} ${os.release()}`,
    ...(version === undefined ? {} : { libc: version }),
    node: { version: process.versions.node, path: process.execPath },
    cpu: { model: cpus[0]?.model ?? 'unknown', cores, usable: usable ?? os.availableParallelism() },
    memory: memory(),
    ...(shm === undefined ? {} : { devShmBytes: shm }),
    variables: variables(),
  }
}

function memory(): DoctorMachine['memory'] {
  const totalBytes = os.totalmem()
  const limit = process.constrainedMemory()
  // Without a limit the system gives 0, or a number beyond all memory.
  const limited = limit > 0 && limit < totalBytes ? { limitBytes: limit } : {}
  return { totalBytes, ...limited, availableBytes: available() }
}

function available(): number {
  // Newer than the oldest Node that is supported.
  const { availableMemory } = process as { availableMemory?: () => number }
  return availableMemory?.call(process) ?? os.freemem()
}

function devShmBytes(): number | undefined {
  if (process.platform !== 'linux') return undefined
  try {
    const { bsize, blocks } = statfsSync('/dev/shm')
    return bsize * blocks
  } catch {
    return undefined
  }
}

function variables(): Record<string, string> {
  return Object.fromEntries(
    telling.flatMap((name) => {
      const value = process.env[name]
      return value === undefined || value === '' ? [] : [[name, value]]
    }),
  )
}
