"""Greedy answers of plain ``transformers.generate``, one prompt at a time.

``reference.py FOLDER MAX_TOKENS < prompts.json``
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    folder, max_tokens = sys.argv[1], int(sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    for prompt in json.load(sys.stdin):
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False)
        answers.append(out[0, len(prompt) :].tolist())
    json.dump(answers, sys.stdout)


main()
