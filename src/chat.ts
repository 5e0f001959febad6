/** Messages and how a template renders them. */

import { invalidArgument } from './errors'
import { checkOptions, kinds, toJson } from './options'

/** One message of a chat, in the shape that chat templates know. */
export interface ChatMessage {
  /** `system`, `user`, `assistant`, `tool` ... */
  readonly role: string
  /** The text, or parts of it; parts of other types than `text` are the template's to judge. */
  readonly content?: string | null | readonly { readonly type: string; readonly text?: string }[] | undefined
  /** Calls that the assistant made. */
  readonly tool_calls?: readonly object[] | undefined
  /** The call that a message of role `tool` answers. */
  readonly tool_call_id?: string | undefined
}

/** How to render a chat. */
export interface Template {
  /** JSON schemas of the tools that the model may call. Default: none. */
  readonly tools?: readonly object[] | undefined
  /** Whether the text ends with the opening of an assistant message. Default: false in `applyChatTemplate`, true in `chat`. */
  readonly addGenerationPrompt?: boolean | undefined
  /** A Jinja template, or the name of one of the model's, instead of the model's default. Default: the model's. */
  readonly template?: string | undefined
  /** Further variables for the template; they win over ours. Default: none. */
  readonly variables?: Readonly<Record<string, unknown>> | undefined
}

export const templateShape = {
  tools: kinds.array,
  addGenerationPrompt: kinds.boolean,
  template: kinds.string,
  variables: kinds.object,
}

const messageShape = {
  role: kinds.string,
  content: kinds.any,
  tool_calls: kinds.array,
  tool_call_id: kinds.string,
}

/** Checks what Rust could only report as bad JSON. Templates know further keys, such as `name`, so unknown ones pass. */
export function checkMessages(messages: unknown): asserts messages is readonly ChatMessage[] {
  if (!Array.isArray(messages)) throw invalidArgument('messages', 'an array of messages', messages)
  for (const [i, message] of (messages as unknown[]).entries()) {
    if (!kinds.object.test(message)) throw invalidArgument(`messages[${i}]`, 'an object', message)
    const { role, content, tool_calls, tool_call_id } = message as Record<string, unknown>
    if (typeof role !== 'string') throw invalidArgument(`messages[${i}].role`, 'a string', role)
    if (content !== undefined && content !== null && typeof content !== 'string' && !Array.isArray(content)) {
      throw invalidArgument(`messages[${i}].content`, 'a string, null or an array of parts', content)
    }
    checkOptions(`messages[${i}]`, { tool_calls, tool_call_id }, messageShape)
  }
}

/** The template options as Rust reads them. */
export function templateJson(template: Template): string {
  const { tools, addGenerationPrompt, template: source, variables } = template
  return toJson({ tools, addGenerationPrompt, template: source, variables })
}
