"""What transformers renders: ``chat_reference.py < cases.json``, each with a template, messages and variables.

Answers with a list of texts, ``None`` where the template refuses the messages.
"""

import json
import sys

from transformers.utils.chat_template_utils import render_jinja_template


def render(case: dict) -> str | None:
    try:
        rendered = render_jinja_template(
            conversations=[case["messages"]],
            tools=case.get("tools"),
            chat_template=case["template"],
            add_generation_prompt=case["addGenerationPrompt"],
            **case["variables"],
        )
    except Exception:
        return None
    return str(rendered[0][0])


json.dump([render(case) for case in json.load(sys.stdin)], sys.stdout)
