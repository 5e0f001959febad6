"""Request names by slot."""

from __future__ import annotations

import logging

import pytest

from pillion._forward import request_ids
from pillion._requests import RequestNames, log_forward_failure
from pillion._step import Step, decode_step
from pillion.errors import StepRecordError
from records import StepRecord, Tensor, encode_forward, sequence


def step(names: list[str], slots: list[int], rows: list[int], freed: list[int] | None = None) -> Step:
    record = StepRecord(
        step_id=7,
        freed=freed or [],
        new=[sequence(slot, 0, 1) for slot in slots],
        prompts=[1],
        rows=[(slot, 0, 1, 1) for slot in rows],
        request_ids=names,
    )
    return decode_step(record.encode())


def test_names_follow_the_slots() -> None:
    names = RequestNames()
    names.follow(step(["a", "\u00fc" * 3], [4, 2], []))
    assert names.of(step([], [], [2, 4, 9])) == ["\u00fc" * 3, "a"]
    names.follow(step(["b"], [4], [], freed=[2, 4]))
    assert names.of(step([], [], [2, 4])) == ["b"]
    names.follow(step([], [2], []))
    assert names.of(step([], [], [2])) == []


@pytest.mark.parametrize(
    ("count", "shown", "request_id"), [(1, "r0", "r0"), (2, "r0, r1", None), (10, "r7 and 2", None)]
)
def test_a_failure_is_one_line_with_the_names(
    count: int, shown: str, request_id: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    names = RequestNames()
    slots = list(range(count))
    names.follow(step([f"r{slot}" for slot in slots], slots, []))
    with caplog.at_level(logging.WARNING, "pillion"):
        names.log_failure(step([], [], slots), ValueError("x"))
    (record,) = caplog.records
    assert "step 7 raised ValueError" in record.getMessage()
    assert shown in record.getMessage()
    assert getattr(record, "request_id", None) == request_id


def test_a_failed_forward_names_its_requests_once(caplog: pytest.LogCaptureFixture) -> None:
    items: list[tuple[int, list[Tensor]]] = [(1, []), (2, []), (3, [])]
    with caplog.at_level(logging.WARNING, "pillion"):
        log_forward_failure(3, KeyError("x"), encode_forward(3, items, ["a", "a", "\u00fc"]), 3)
        log_forward_failure(4, KeyError("x"), encode_forward(4, items, ["a", "a", "a"]), 3)
        log_forward_failure(5, KeyError("x"), encode_forward(5, items), 3)
    assert [(record.getMessage(), getattr(record, "request_id", None)) for record in caplog.records] == [
        ("forward 3 raised KeyError; requests: a, \u00fc", None),
        ("forward 4 raised KeyError; requests: a", "a"),
        ("forward 5 raised KeyError; requests: none", None),
    ]
    with pytest.raises(StepRecordError, match="2 request ids where 3 were expected"):
        request_ids(encode_forward(6, items, ["a", "b"]), 3)


def test_request_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StepRecordError, match="2 request ids where 1 were expected"):
        step(["a", "b"], [1], [])
    record = bytearray(StepRecord(new=[sequence(0, 0, 0)], request_ids=["abc"]).encode())
    at = record.index(b"\x03\x00\x00\x00abc")
    record[at] = 200
    with pytest.raises(StepRecordError, match="outside its section"):
        decode_step(bytes(record))
