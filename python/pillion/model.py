"""What a user writes: a class with `load` and `forward`.

    class Sentiment(pillion.Model):
        def load(self, context):
            self.words = context.options["words"]

        def forward(self, batch):
            return [{"score": sum(word in self.words for word in item["text"].split())} for item in batch]

Node then has it as `Engine.load({ model: { class: 'app/model.py:Sentiment', options } })` and `engine.predict(input)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Context", "Model"]


@dataclass(frozen=True, slots=True)
class Context:
    """What a model is told when it is loaded."""

    options: Any
    """`options` of the model in `Engine.load`, or `None`."""
    device: str | None
    """The torch device that the caller asked for, such as `cuda:0`; `None` leaves it to the model."""
    dtype: str | None
    """The torch dtype that the caller asked for; `None` leaves it to the model."""
    num_threads: int
    """Threads that one operation may use. OpenMP and its kin have been told already."""
    max_batch: int
    """The longest list that `forward` will get."""
    progress: Callable[..., None]
    """`progress(done, total=None)` tells the caller how far loading has come."""


class Model:
    """A model that answers lists of inputs. Made without arguments, on the thread that also calls its methods."""

    def load(self, context: Context) -> None:
        """Reads weights and the like, once, before the first `forward`. What it raises fails `Engine.load`."""

    def forward(self, batch: list[Any]) -> Sequence[Any]:
        """Answers all inputs of `batch`: one result each, in the same order.

        An input is the JSON value that the caller sent. Typed arrays, at the top of it or in the fields of an object,
        are read-only numpy arrays; they may be kept, and are never changed or freed under their holder, but each keeps
        its whole batch in memory. A torch tensor made of one shares its memory: clone it before you write to it.

        A result is what JSON can carry; numpy arrays and torch tensors, as the result or in the fields of a dict,
        arrive as typed arrays.

        An exception that stands in place of a result is that input's error alone. One that is raised is the error of
        every input of the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")
