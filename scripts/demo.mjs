// `npm run demo`: sets everything up on a fresh machine, then shows the main job on a real model.
import { build, checkTools, models, npmPackages, python, pythonEnvironment, smollm2 } from './lib/prepare.mjs'
import { step } from './lib/steps.mjs'

await checkTools()
await npmPackages()
await build()
await pythonEnvironment({ dev: true })
await models()
await step('demo', 'npx', ['tsx', 'examples/demo.mts', smollm2], { env: { PILLION_PYTHON: python } })
