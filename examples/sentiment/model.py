"""Tells how friendly a text is, by the words in it: a stand-in for a real classifier, with the same two methods."""

from __future__ import annotations

from typing import Any

import numpy as np

import pillion


class Sentiment(pillion.Model):
    """Takes `{"text"}`, gives `{"label", "score", "weights"}`, the weight of every word in order."""

    def load(self, context: pillion.Context) -> None:
        # Here a real model would read its weights, onto `context.device`.
        options = context.options or {}
        self.weights = {"good": 1.0, "fine": 0.5, "bad": -1.0, **options.get("weights", {})}

    def forward(self, batch: list[Any]) -> list[Any]:
        # All inputs that wait come together, so that a real model can run them in one pass.
        return [
            self.judge(item["text"].lower().split()) if item.get("text") else ValueError("no text") for item in batch
        ]

    def judge(self, words: list[str]) -> dict[str, Any]:
        weights = np.array([self.weights.get(word.strip(".,!?"), 0.0) for word in words], dtype=np.float32)
        score = float(np.tanh(weights.sum()))
        return {"label": "positive" if score >= 0 else "negative", "score": score, "weights": weights}
