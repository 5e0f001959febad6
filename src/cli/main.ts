#!/usr/bin/env node
/** The command `pillion`. Data goes to stdout, everything else to stderr. */

import { parseArgs } from 'node:util'
import { pythonFolder, version } from '../native'
import { nearest } from '../options'
import { Failure, say } from './say'
import { setup } from './setup'

const help = `pillion ${version}

Usage: pillion <command> [options]

Commands:
  setup        make a Python environment with the packages that models need

Options:
  -h, --help   show this help, or that of a command
  --version    show the version
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

const commands: Record<string, (args: string[]) => Promise<void>> = { setup: runSetup }

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
  throw new Failure(`there is no command '${name}'`, near === undefined ? known : `did you mean '${near}'?`)
}

async function runSetup(args: string[]): Promise<void> {
  const values = parse(args)
  if (values.help === true) print(setupHelp)
  else await setup({ python: values.python, dir: values.dir ?? '.venv', indexUrl: values['index-url'], pythonFolder })
}

function print(text: string): void {
  process.stdout.write(text)
}

function parse(args: string[]): { python?: string; dir?: string; 'index-url'?: string; help?: boolean } {
  const text = { type: 'string' } as const
  const options = { python: text, dir: text, 'index-url': text, help: { type: 'boolean', short: 'h' } } as const
  try {
    return parseArgs({ args, options }).values
  } catch (error) {
    throw new Failure(error instanceof Error ? error.message : String(error), 'see pillion setup --help')
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  if (!(error instanceof Failure)) throw error
  say(`error: ${error.message}${error.hint === undefined ? '' : `\nhint: ${error.hint}`}`)
  process.exitCode = 1
})
