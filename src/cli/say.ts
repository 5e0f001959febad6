/** How the command talks to people. */

/** A failure that a person can do something about; shown without a stack. */
export class Failure extends Error {
  readonly hint: string | undefined

  constructor(message: string, hint?: string) {
    super(message)
    this.hint = hint
  }
}

/** A line on stderr. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`)
}
