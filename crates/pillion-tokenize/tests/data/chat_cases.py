"""Renders the cases below with transformers and writes chat_cases.json, which `tests/chat_template.rs` compares with.

Run it with a Python that has transformers whenever a case is added: `python chat_cases.py`.
"""

# ruff: noqa: E501 - a template broken into lines is another template
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

CHAT = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "  Hi, 猫 \n"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello!"},
    {"role": "user", "content": "Bye\n"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Says "how" <warm> it is & más 猫',
            "parameters": {
                "type": "object",
                "required": ["city"],
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer", "default": 1, "maximum": 1e16, "minimum": 1.0},
                },
                "additionalProperties": False,
                "examples": [
                    [],
                    {},
                    None,
                    True,
                    -0.0,
                    1e-05,
                    0.0001,
                    123456789012345678,
                    1.5e300,
                    "\u007f\u2028\t\b\f\u0001\\/",
                ],
            },
        },
    }
]
CALLS = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "How warm"}, {"type": "image"}, {"type": "text", "text": " is it?"}],
    },
    {
        "role": "assistant",
        "content": None,
        "reasoning": "ask",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": '{"warm": true}'},
]

# Name, template, and what differs from CHAT without tools.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    (
        "chatml",
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        {"add_generation_prompt": True},
    ),
    (
        "blocks are trimmed as transformers asks",
        "{{ bos_token }}\n{% for message in messages %}\n    {% if loop.first %}\n  first: {{ message.role }}\n    {% endif %}\n"
        "  {%- if loop.last -%}\n  last {{ loop.index }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.length }}\n  {%- endif %}\n{% endfor %}\nend\n",
        {},
    ),
    (
        "filters bind tighter than plus",
        "{% for m in messages %}[{{ m['content'] | trim + '|' + m.role | upper }}]{% endfor %}",
        {},
    ),
    (
        "namespace, slices and conditions",
        "{% set ns = namespace(found=false, system='') %}{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.found %}"
        "{% set ns.found = true %}{{ m.content }}{% endif %}{% endfor %}{{ ns.found }}{{ messages[1:] | length }}{{ messages[-1].role }}"
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{{ (m.role == 'user') != (loop.index0 % 2 == 0) }} {% endfor %}{{ messages[:1][0].content[:2] }}{{ 'abc'[::-1] }}",
        {},
    ),
    (
        "python string methods",
        "{% set c = messages[2].content %}{{ c.split('</think>')[-1].lstrip('\n') }}|{{ c.startswith('<think>') }}|{{ c.endswith('!') }}|"
        "{{ c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}|{{ messages[1].content.strip() }}|"
        "{{ 'a-b'.replace('-', '+').upper().title() }}|{{ 'x'.join(['1', '2']) }}|{{ 'a b  c'.split() }}|{{ 'ab'.find('b') }}|{{ 'aXa'.count('a') }}|"
        "{{ '{} and {}'.format(1, 'two') }}|{{ 'ABC'.lower().capitalize() }}|{{ '%s-%d' | format('a', 3) }}|{{ 'a\nb'.splitlines() }}|{{ 'é'.isalpha() }}",
        {},
    ),
    (
        "values print as python prints them",
        "{{ true }} {{ false }} {{ none }} {{ 1.0 }} {{ 1 }} {{ [1, 'a', none, true, 2.5] }} {{ {'a': 'it\\'s', 'b': [1]} }} {{ messages[0] }} "
        "{{ 'n: ' ~ 1 ~ none ~ true }} {{ ('a', 'b') }} {{ missing }}|{{ missing is defined }}",
        {},
    ),
    (
        "json keeps order and escapes nothing",
        "{% for t in tools %}{{ t | tojson }}\n{% endfor %}{{ tools | tojson | length }}",
        {"tools": TOOLS},
    ),
    ("json indented", "{{ tools | tojson(indent=4) }}\n{{ tools | tojson(indent=2) | indent(3) }}", {"tools": TOOLS}),
    (
        "json in other styles",
        "{{ tools | tojson(separators=(',', ':')) }}{{ tools[0] | tojson(sort_keys=true) }}{{ tools | tojson(ensure_ascii=true) }}"
        "{{ tools[0].function | tojson(true, 1, (';', '=')) }}{{ messages | map(attribute='content') | list | tojson }}{{ 'q\"' | tojson }}"
        "{{ {} | tojson(indent=2) }}{{ [] | tojson(indent=2) }}{{ 1.0 | tojson }}{{ none | tojson }}{{ {1: 2, 'a': {'b': []}} | tojson }}",
        {"tools": TOOLS},
    ),
    (
        "tool calls",
        "{%- for m in messages %}{%- if m.tool_calls is defined and m.tool_calls %}{%- for call in m.tool_calls %}{%- set f = call.function if call.function else call %}"
        '<tool_call>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}</tool_call>'
        "{%- endfor %}{%- elif m.role == 'tool' %}<r id={{ m.tool_call_id }}>{{ m.content }}</r>{%- elif m.content is string %}{{ m.content }}"
        "{%- else %}{%- for p in m.content %}{%- if p.type == 'text' %}{{ p['text'] }}{%- elif p['type'] == 'image' %}<image>{%- endif %}{%- endfor %}{%- endif %}{%- endfor %}"
        "{{ messages[1].reasoning_content }}{{ messages[1].thinking }}{{ messages[1] }}",
        {"messages": CALLS, "tools": TOOLS},
    ),
    (
        "tests",
        "{% for v in ['s', 1, 1.5, none, true, [], {}, missing] %}{{ v is string }}{{ v is number }}{{ v is integer }}{{ v is none }}{{ v is boolean }}"
        "{{ v is mapping }}{{ v is sequence }}{{ v is iterable }}{{ v is defined }}{{ v is true }}{{ v is sameas true }}{{ v is float }}\n{% endfor %}"
        "{{ 'a' in 'cat' }}{{ 'role' in messages[0] }}{{ 'x' not in [1] }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ 1 is eq 1 }}{{ 'a' is in ['a'] }}{{ 'A' is upper }}",
        {},
    ),
    (
        "filters",
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | join(', ') }}"
        "{{ messages | map(attribute='role') | unique | list }}{{ [3, 1, 2] | sort }}{{ [3, 1, 2] | sort(reverse=true) | first }}{{ [1, 2] | last }}{{ [1, 2, 3] | sum }}"
        "{{ [1, 2] | max }}{{ 'a' | default('b') }}{{ missing | default('c') }}{{ '' | default('d', true) }}{{ none | d('e') }}{{ '5' | int + 1 }}{{ 5 | string + '!' }}"
        "{{ 'hello world' | title }}{{ 'hello' | capitalize }}{{ 'a,b' | replace(',', ';') }}{{ ' x ' | trim }}{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1} | items | list }}"
        "{{ [1, 2, 3, 4, 5] | batch(2) | list }}{{ -3 | abs }}{{ 2.567 | round(1) }}{{ [1, 0, 2] | select | list }}{{ 'abc' | list }}{{ 'abc' | reverse }}{{ 'abc' | length }}"
        "{{ 'x y' | wordcount }}{{ '%s!' | format('hi') }}{{ [[1, 'a'], [2, 'b']] | map('first') | list }}{{ '1.5' | float }}{{ 'A' | lower }}",
        {},
    ),
    (
        "macros, sets and loops",
        "{% macro tag(name, value='none', last=false) %}<{{ name }}={{ value }}{% if last %}/{% endif %}>{% endmacro %}{{ tag('a') }}{{ tag('b', 1) }}{{ tag('c', last=true) }}"
        "{% set block %}block {{ messages | length }}{% endset %}{{ block }}{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.role }}{% else %}no{% endfor %}{% for m in [] %}x{% else %}none{% endfor %}"
        "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for m in messages %}{{ loop.previtem.role if loop.previtem else '-' }}{{ loop.nextitem.role if not loop.last }}{% endfor %}"
        "{{ range(1, 7, 2) | list }}{% set a, b = 1, 2 %}{{ a + b }}{% filter upper %}up{% endfilter %}{% for x in 'ab' %}{{ loop.cycle('o', 'e') }}{% endfor %}",
        {},
    ),
    (
        "dict methods and arithmetic",
        "{% set d = {'a': 1, 'b': none} %}{{ d.get('a') }}{{ d.get('z', 'dflt') }}{{ d.get('z') }}{{ d.keys() | list }}{{ d.values() | list }}{{ d | length }}"
        "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 8 }} {{ -7 // 2 }} {{ 'ab' * 2 }} {{ [1] + [2] }} {{ 1 < 2 < 3 }} {{ 1 if false }}| {{ 'a' if 1 else 'b' }} {{ not none }} "
        "{{ none or 'x' }} {{ '' or missing or 'y' }} {{ 1 and 0 }} {{ dict(a=1) }} {{ messages[0].get('name', 'nameless') }}",
        {},
    ),
    (
        "generation tags mean nothing",
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{%- endgeneration %}\n{% endif %}{% endfor %}",
        {},
    ),
    (
        "variables win",
        "{{ bos_token }}{{ enable_thinking }}{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{% endif %}",
        {"variables": {"enable_thinking": False, "bos_token": "B"}},
    ),
    (
        "tools and documents are none, not missing",
        "{{ tools is defined }}{{ tools is none }}{{ documents is none }}{% if not tools %}no tools{% endif %}{{ tools }}",
        {},
    ),
    (
        "indented text breaks where python breaks lines",
        "{% set t = 'a\\r\\nb\\n\\nc\\x0bd\\u2028e\\n' %}{{ t | indent }}|{{ t | indent(2, true) }}|{{ t | indent('>', first=true, blank=true) }}|{{ t | indent(width=1) }}|{{ '' | indent }}|{{ 'x' | indent }}",
        {},
    ),
    ("comments and raw", "a{# no #}b\n{# line #}\nc{% raw %}{{ x }}{% endraw %}{{ '{{' }}{{ \"\\n\\t\\u732b\" }}", {}),
    ("missing text is empty", "[{{ messages[0].name }}][{% for x in messages[0].name %}x{% endfor %}]", {}),
    (
        "raise_exception",
        "{{ raise_exception('roles must alternate: ' + messages[0].role) }}",
        {"fails": "roles must alternate: system"},
    ),
    ("missing of missing", "{{ messages[0].name.first }}", {"fails": ""}),
    ("missing in a sum", "{{ 'a' + messages[0].name }}", {"fails": ""}),
    ("none in a sum", "{{ 'a' + none }}", {"fails": ""}),
    ("unknown filter", "{{ 'a' | nope }}", {"fails": "nope"}),
    ("broken syntax", "{% for %}", {"fails": ""}),
    ("call of nothing", "{{ nope() }}", {"fails": "nope"}),
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def render(template: str, options: dict[str, Any]) -> str:
    rendered: Any = render_jinja_template(
        conversations=[options.get("messages", CHAT)],
        tools=options.get("tools"),
        chat_template=template,
        add_generation_prompt=options.get("add_generation_prompt", False),
        **{**SPECIAL, **options.get("variables", {})},
    )
    return str(rendered[0][0])


def main() -> None:
    out = []
    for name, template, options in CASES:
        case: dict[str, Any] = {"name": name, "template": template, "messages": options.get("messages", CHAT)}
        case |= {
            key: options[key] for key in ("tools", "add_generation_prompt", "variables", "fails") if key in options
        }
        try:
            rendered = render(template, options)
        except Exception as error:
            if "fails" not in options:
                raise SystemExit(f"{name}: {error}") from error
        else:
            if "fails" in options:
                raise SystemExit(f"{name} should fail and gives {rendered!r}")
            case["expected"] = rendered
        out.append(case)
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
