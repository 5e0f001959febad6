import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished } from 'vitest'
import { Engine, PillionError, type EngineOptions, type ErrorCode } from '../src/index'

export const root = resolve(__dirname, '..')

/** A folder that goes away with the test. */
export function tempFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'pillion-test-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** An engine on the echo model, closed with the test. */
export async function echoEngine(options: Partial<EngineOptions> & { stepMs?: number } = {}): Promise<Engine> {
  const { stepMs, ...rest } = options
  const engine = await Engine.load({ model: { echo: { stepMs } }, ...rest })
  onTestFinished(() => engine.close({ drainMs: 0 }))
  return engine
}

/** What a promise or a function fails with; the test fails if it does not. */
export async function failure(action: Promise<unknown> | (() => unknown)): Promise<unknown> {
  try {
    await (typeof action === 'function' ? action() : action)
  } catch (error) {
    return error
  }
  throw new Error('it did not fail')
}

/** As `failure`, for one of our own errors. */
export async function refused(
  action: Promise<unknown> | (() => unknown),
  code: ErrorCode,
  param?: string,
): Promise<PillionError> {
  const error = await failure(action)
  expect(error).toBeInstanceOf(PillionError)
  expect(error).toMatchObject({ code, ...(param === undefined ? {} : { param }) })
  return error as PillionError
}

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs the built command `pillion`, in this environment with `env` laid over it; `undefined` takes a variable out. */
export async function runCli(
  args: string[],
  options: { cwd?: string; env?: Record<string, string | undefined> } = {},
): Promise<Ended> {
  const env = { ...process.env, ...options.env }
  const child = spawn(process.execPath, [join(root, 'dist/cli.cjs'), ...args], { cwd: options.cwd ?? root, env })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  return await new Promise((done) => child.on('close', (code, signal) => done({ code, signal, stdout, stderr })))
}

/** Runs a script in a Node of its own against what is built; `pillion` and `assert` are there. Killed after `timeout`. */
export async function runNode(script: string, env: NodeJS.ProcessEnv = {}, timeout = 60_000): Promise<Ended> {
  const head = `const pillion = require(${JSON.stringify(join(root, 'dist/index.cjs'))}); const assert = require('node:assert/strict');\n`
  const body = `${head}(async () => {\n${script}\n})().catch((error) => { console.error(error); process.exit(99) })`
  const child = spawn(process.execPath, ['-e', body], { cwd: root, env: { ...process.env, ...env }, timeout })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  return await new Promise((done) => child.on('close', (code, signal) => done({ code, signal, stdout, stderr })))
}

/** A byte-level BPE with a handful of merges, special tokens and a chat template, as a model folder. */
export function tinyModelFolder(): string {
  const folder = tempFolder()
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tinyTokenizer()))
  const config = {
    bos_token: '<s>',
    pad_token: '<pad>',
    chat_template:
      '{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}',
  }
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config))
  return folder
}

const merges = ['h e', 'l l', 'he ll', 'hell o', 'Ġ w', 'o r', 'Ġw or', 'l d', 'Ġwor ld'].map((pair) => pair.split(' '))
const special = ['<s>', '</s>', '<pad>', '<|user|>', '<|assistant|>']

/** The `tokenizer.json` of `tinyModelFolder`. */
export function tinyTokenizer(): object {
  const tokens = [...byteAlphabet(), ...merges.map((pair) => pair.join('')), ...special]
  const id = (token: string): number => tokens.indexOf(token)
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: special.map((content) => ({
      ...{ id: id(content), content, special: true },
      ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
    })),
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [
        { SpecialToken: { id: '<s>', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: '</s>', type_id: 0 } },
        { Sequence: { id: 'B', type_id: 1 } },
      ],
      special_tokens: Object.fromEntries(
        ['<s>', '</s>'].map((token) => [token, { id: token, ids: [id(token)], tokens: [token] }]),
      ),
    },
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(tokens.filter((token) => !special.includes(token)).map((token) => [token, id(token)])),
      merges,
    },
  }
}

/** The 256 characters that stand for bytes in a byte-level vocabulary, by byte. */
function byteAlphabet(): string[] {
  const plain = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff)
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(plain(byte) ? byte : next++))
}
