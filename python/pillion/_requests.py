"""Which request is in which slot or asked for which input, so that both sides' logs name requests alike."""

from __future__ import annotations

import logging
from typing import Final

from pillion._forward import request_ids
from pillion._step import Step

__all__ = ["RequestNames", "log_forward_failure"]

log = logging.getLogger("pillion")

# A step has up to a thousand rows; more names than these help nobody.
_MAX_NAMED: Final = 8


class RequestNames:
    """Follows the sequences that enter and leave."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def follow(self, step: Step) -> None:
        """To be called with each step that changes slots, before it runs."""
        for slot in step.freed:
            self._names.pop(slot, None)
        for new, name in zip(step.new, step.request_ids, strict=False):
            self._names[new.slot] = name

    def of(self, step: Step) -> list[str]:
        """The requests that the step computes something for, as far as they have names."""
        return [self._names[slot] for slot in step.rows[::4] if slot in self._names]

    def log_failure(self, step: Step, error: BaseException) -> None:
        """One line for the whole step: its traceback goes to the callers with the error itself."""
        _log_failure(f"step {step.step_id}", error, self.of(step))


def log_forward_failure(forward_id: int, error: BaseException, record: bytes, num_items: int) -> None:
    """The same for a forward."""
    # Those of one call stand together.
    names = list(dict.fromkeys(name for name in request_ids(record, num_items) if name))
    _log_failure(f"forward {forward_id}", error, names)


def _log_failure(what: str, error: BaseException, names: list[str]) -> None:
    shown = ", ".join(names[:_MAX_NAMED]) or "none"
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    extra = {"request_id": names[0]} if len(names) == 1 else {}
    log.warning("%s raised %s; requests: %s%s", what, type(error).__name__, shown, more, extra=extra)
