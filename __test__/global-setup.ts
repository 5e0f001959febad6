import { execFileSync } from 'node:child_process'

/** Child processes and workers run what is built, so it is built anew; it takes a second. */
export default function setup(): void {
  const tsup = 'node_modules/tsup/dist/cli-default.js'
  execFileSync(process.execPath, [tsup, '--silent'], { stdio: 'inherit' })
}
