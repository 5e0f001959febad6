/** How the command talks to people. */

/** A failure that a person can do something about; shown without a stack. */
export class Failure extends Error {
  readonly hint: string | undefined
  /** The exit status: 1 if the work failed, 2 if the command was not understood. */
  readonly status: 1 | 2

  constructor(message: string, hint?: string, status: 1 | 2 = 1) {
    super(message)
    this.hint = hint
    this.status = status
  }
}

/** A line on stderr. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`)
}
