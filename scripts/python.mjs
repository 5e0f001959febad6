// Runs the checkout's own Python with the given arguments, wherever the platform puts it.
import { spawnSync } from 'node:child_process'

import { python } from './lib/prepare.mjs'

const { status, error } = spawnSync(python, process.argv.slice(2), { stdio: 'inherit' })
if (error) console.error(`${python} cannot be run (${error.message})\nhint: \`npm test\` sets it up`)
process.exit(status ?? 1)
