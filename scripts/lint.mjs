// `npm run lint`: formatting, linters and types of all languages, each counted as one check. Needs what `npm test` sets up.
import path from 'node:path'

import { python } from './lib/prepare.mjs'
import { counters, finish, root, step } from './lib/steps.mjs'

const check = { count: counters.one, keepGoing: true }
await step('rustfmt', 'cargo', ['fmt', '--all', '--check'], check)
await step('clippy', 'cargo', ['clippy', '--workspace', '--all-targets', '--quiet', '--', '-D', 'warnings'], check)
const portable = ['clippy', '-p', 'pillion-backend-worker', '--features', 'portable', '--all-targets', '--quiet']
await step('clippy, as on other systems', 'cargo', [...portable, '--', '-D', 'warnings'], check)
await step('prettier', 'npx', ['prettier', '--check', '.'], check)
await step('eslint', 'npx', ['eslint', '.'], check)
await step('tsc', 'npx', ['tsc', '--noEmit'], check)
await step('index.d.ts is fresh', 'npm', ['run', '--silent', 'check:dts'], check)
// Paths in `pyproject.toml` are relative to its folder.
const inPython = { ...check, cwd: path.join(root, 'python') }
const sources = ['--config', 'pyproject.toml', '.', '../scripts', '../benchmark', '../__test__', '../examples']
await step('ruff', python, ['-m', 'ruff', 'check', ...sources], inPython)
await step('ruff format', python, ['-m', 'ruff', 'format', '--check', ...sources], inPython)
await step('mypy', python, ['-m', 'mypy'], inPython)
finish()
