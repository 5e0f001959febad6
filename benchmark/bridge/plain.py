"""A class of a user's that gives back what it gets."""

from __future__ import annotations

from typing import Any

import pillion


class Plain(pillion.Model):
    """Nothing of its own."""

    def load(self, context: pillion.Context) -> None:
        """Nothing to load."""

    def forward(self, batch: list[Any]) -> list[Any]:
        return batch
