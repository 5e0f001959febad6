#!/usr/bin/env node
/** The command `pillion`. Data goes to stdout, everything else to stderr. */

import { parseArgs, type ParseArgsConfig } from 'node:util'
import type { Bridge } from '../engine'
import { PillionError } from '../errors'
import { pythonFolder, version } from '../native'
import { nearest } from '../options'
import { bridges, doctor } from './doctor'
import { Failure, say } from './say'
import { setup } from './setup'

const help = `pillion ${version}

Usage: pillion <command> [options]

Commands:
  setup        make a Python environment with the packages that models need
  doctor       say what pillion has to run on here, try every bridge, and what to do if one does not work

Options:
  -h, --help   show this help, or that of a command
  --version    show the version

Exit status: 0 if all went well, 1 if not, 2 if the command was not understood.
`

const setupHelp = `Makes a virtual environment and installs the pinned versions of torch and transformers into it. Doing it again does
only what is still missing.

Usage: pillion setup [options]

Options:
  --python <path>     the interpreter to make it from, 3.11 or newer   (default: PILLION_PYTHON, else the newest that is found)
  --dir <folder>      where the environment goes                       (default: .venv)
  --index-url <url>   the package index to install from                (default: pip's own)
  -h, --help          show this help
`

const doctorHelp = `Says what pillion has to run on here: its binary, the machine, the Python that is taken and why others are not, its packages
and device. Then loads a small Python model over every bridge and measures its round trips. Nothing is installed or changed.

Usage: pillion doctor [options]

Options:
  --python <path>      the interpreter, as the option python of Engine.load   (default: what Engine.load takes)
  --bridge <name>      try only embedded, shm or grpc, and judge by it        (default: all, judged by the one that 'auto' takes)
  --timeout <seconds>  how long each question and each bridge may take        (default: 120)
  --json               print one JSON object in place of text; docs/recipes/doctor.md describes it
  -h, --help           show this help

Exit status:
  0   healthy: the default bridge works, or the one that --bridge names; there may be warnings
  1   something is wrong, and the report says what to do about it
  2   the command was not understood
`

const commands: Record<string, (args: string[]) => Promise<void>> = { setup: runSetup, doctor: runDoctor }

async function main(args: string[]): Promise<void> {
  const [name, ...rest] = args
  if (name === '--version') {
    print(`${version}\n`)
    return
  }
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    print(help)
    return
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (command !== undefined) {
    await command(rest)
    return
  }
  const near = nearest(name, Object.keys(commands))
  const known = `the commands are ${Object.keys(commands).join(', ')}; see pillion --help`
  throw new Failure(`there is no command '${name}'`, near === undefined ? known : `did you mean '${near}'?`, 2)
}

const text = { type: 'string' } as const
const helpFlag = { type: 'boolean', short: 'h' } as const

async function runSetup(args: string[]): Promise<void> {
  const values = parse('setup', args, { python: text, dir: text, 'index-url': text, help: helpFlag })
  if (values.help === true) print(setupHelp)
  else await setup({ python: values.python, dir: values.dir ?? '.venv', indexUrl: values['index-url'], pythonFolder })
}

async function runDoctor(args: string[]): Promise<void> {
  const options = { python: text, bridge: text, timeout: text, json: { type: 'boolean' }, help: helpFlag } as const
  const { python, bridge, timeout, json, help } = parse('doctor', args, options)
  if (help === true) {
    print(doctorHelp)
    return
  }
  const timeoutMs = Math.round(Number(timeout ?? 120) * 1000)
  if (!(timeoutMs >= 1 && timeoutMs <= maxTimeoutMs)) {
    throw misuse('doctor', `--timeout must be a number of seconds up to ${maxTimeoutMs / 1000}, got '${timeout ?? ''}'`)
  }
  if (bridge !== undefined && !isBridge(bridge)) {
    throw misuse('doctor', `--bridge must be ${bridges.join(', ')}, got '${bridge}'`)
  }
  process.exitCode = await doctor({ python, bridge, timeoutMs, json: json ?? false })
}

const maxTimeoutMs = 3_600_000

function isBridge(name: string): name is Bridge {
  return (bridges as readonly string[]).includes(name)
}

function print(text: string): void {
  process.stdout.write(text)
}

function parse<T extends NonNullable<ParseArgsConfig['options']>>(
  command: string,
  args: string[],
  options: T,
): ReturnType<typeof parseArgs<{ args: string[]; options: T }>>['values'] {
  try {
    return parseArgs({ args, options }).values
  } catch (error) {
    throw misuse(command, error instanceof Error ? error.message : String(error))
  }
}

function misuse(command: string, message: string): Failure {
  return new Failure(message, `see pillion ${command} --help`, 2)
}

// Who reads only the beginning, as `head` does, is no failure of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
})
main(process.argv.slice(2)).catch((error: unknown) => {
  const isOurs = error instanceof Failure
  if (!isOurs && !PillionError.isInstance(error)) throw error
  // The message of the latter has its hint already.
  say(`error: ${error.message}${isOurs && error.hint !== undefined ? `\nhint: ${error.hint}` : ''}`)
  process.exitCode = isOurs ? error.status : 1
})
