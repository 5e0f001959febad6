"""Trains a small Unigram with sentencepiece and writes it as a `tokenizer.json`, as a converter of transformers would.

python unigram.py FOLDER-OF-PACKAGES TEXT-FILE OUT-FILE
"""

import base64
import io
import json
import sys
from collections.abc import Iterator

packages, text, out = sys.argv[1:4]
sys.path.insert(0, packages)

import sentencepiece  # type: ignore[import-not-found,import-untyped]  # noqa: E402


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protocol buffer: numbers and contents, all that is needed of the format here."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint().to_bytes(8, "little")
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            length = varint()
        yield key >> 3, message[at : at + length]
        at += length


def main() -> None:
    """Trains and writes."""
    import struct

    model = io.BytesIO()
    with open(text, encoding="utf-8") as lines:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.rstrip("\n") for line in lines),
            model_writer=model,
            vocab_size=8000,
            model_type="unigram",
            normalization_rule_name="nmt_nfkc",
            character_coverage=0.995,
            num_threads=1,
            max_sentence_length=20000,
            input_sentence_size=200000,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    pieces: list[tuple[str, float]] = []
    charsmap = b""
    for number, content in fields(model.getvalue()):
        if number == 1:
            piece = dict(fields(content))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0]))
        elif number == 3:
            charsmap = dict(fields(content)).get(2, b"")
    special = [
        {
            "id": i,
            "content": piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, (piece, _) in enumerate(pieces[:3])
    ]
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
    }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(tokenizer, file, ensure_ascii=False)


main()
