"""The bare loop: the same forward pass as the engine's, called directly with equal prompt lengths and a `DynamicCache`.

Reads lines ``{"prompts": [[id, ...], ...], "tokens": n}`` and writes lines
``{"seconds": s, "tokens": [[id, ...], ...]}``.
"""

import json
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache


@torch.inference_mode()
def generate(model: torch.nn.Module, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    cache = DynamicCache(config=model.config)
    ids = torch.tensor(prompts)
    out = []
    for _ in range(tokens):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        ids = logits[:, -1].argmax(-1, keepdim=True)
        out.append(ids)
    return torch.cat(out, 1).tolist()


def main() -> None:
    folder, dtype = sys.argv[1:3]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    generate(model, [[1] * 8], 2)
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        begin = time.perf_counter()
        result = generate(model, job["prompts"], job["tokens"])
        print(json.dumps({"seconds": time.perf_counter() - begin, "tokens": result}), flush=True)


if __name__ == "__main__":
    main()
