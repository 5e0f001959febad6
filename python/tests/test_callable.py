"""A user's class behind the handler: finding it, inputs, results, errors, memory."""

from __future__ import annotations

import gc
import json
import struct
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pillion
from pillion._config import ClassModel, LoadConfig, LoadLimits
from pillion.errors import InvalidArgumentError, ModelNotFoundError, PillionError
from pillion.worker import Handler
from records import ForwardOutput, StepRecord, Tensor, decode_forward_output, decode_output, encode_forward

Open = Callable[..., Handler]


@pytest.fixture
def open_class(tmp_path: Path) -> Iterator[Open]:
    """Writes `model.py` and opens its class `M`."""
    path, modules = list(sys.path), set(sys.modules)

    def open_it(source: str, spec: str | None = None, options: Any = None, name: str = "model.py") -> Handler:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("import numpy as np\nimport pillion\nimport torch\n\n" + textwrap.dedent(source))
        model = ClassModel(spec or f"{file}:M", options)
        config = LoadConfig(model, "cpu", None, 2, LoadLimits(max_running=4))
        return Handler(config, lambda *_: None)

    yield open_it
    sys.path[:] = path
    for added in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[added], "__file__", "")):
            del sys.modules[added]


def run(handler: Handler, *values: Any, tensors: dict[int, list[Tensor]] | None = None) -> ForwardOutput:
    items = [(value, (tensors or {}).get(index, [])) for index, value in enumerate(values)]
    output = decode_forward_output(handler.step(encode_forward(7, items)))
    assert output.forward_id == 7
    return output


def values(output: ForwardOutput) -> list[Any]:
    assert output.error is None, output.error
    return [result[0] if isinstance(result, tuple) else result["message"] for result in output.results]


def test_a_class_is_loaded_once_and_answers(open_class: Open) -> None:
    handler = open_class(
        """
        class M(pillion.Model):
            def load(self, context):
                context.progress(1, 2)
                self.context = context

            def forward(self, batch):
                c = self.context
                return [[item, c.options["k"], c.device, c.dtype, c.num_threads, c.max_batch] for item in batch]
        """,
        options={"k": "ü"},
    )
    assert values(run(handler, 1, {"a": [None, True]})) == [
        [1, "ü", "cpu", None, 2, 4],
        [{"a": [None, True]}, "ü", "cpu", None, 2, 4],
    ]
    info = handler.info()["model"]
    assert (info["name"], info["tasks"], info["numSlots"]) == ("M", ["predict"], 4)
    handler.close()
    handler.close()
    error = run(handler, 1).error
    assert error is not None and error["code"] == "closed"


def test_neither_the_base_class_nor_load_is_needed(open_class: Open) -> None:
    handler = open_class("class M:\n    def forward(self, batch):\n        return tuple(batch)\n")
    assert values(run(handler, "x")) == ["x"]


ECHO = "class M(pillion.Model):\n    def forward(self, batch):\n        return [{expr} for x in batch]\n"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "float32", "float64", "bool"])
def test_typed_arrays_arrive_as_read_only_arrays(open_class: Open, dtype: str) -> None:
    handler = open_class(
        ECHO.format(expr="[type(x['a']).__name__, str(x['a'].dtype), x['a'].tolist(), x['a'].flags.writeable, x['b']]")
    )
    data = np.array([1, 0, 1], dtype=dtype)
    sent: dict[int, list[Tensor]] = {0: [("a", dtype, (3,), data.tobytes())]}
    assert values(run(handler, {"b": 2}, tensors=sent)) == [["ndarray", dtype, data.tolist(), False, 2]]


def test_an_input_may_be_an_array_of_any_shape(open_class: Open) -> None:
    handler = open_class(ECHO.format(expr="[list(x.shape), x.tolist()]"))
    sent: dict[int, list[Tensor]] = {
        0: [(None, "float32", (2, 2), np.arange(4, dtype="f4").tobytes())],
        1: [(None, "int8", (0, 3), b"")],
        2: [(None, "int8", (), b"\5")],
    }
    assert values(run(handler, None, None, None, tensors=sent)) == [
        [[2, 2], [[0, 1], [2, 3]]],
        [[0, 3], []],
        [[], 5],
    ]


@pytest.mark.parametrize(
    ("expr", "tensors", "value"),
    [
        ("np.arange(3, dtype='f4')", [(None, "float32", (3,), np.arange(3, dtype="f4").tobytes())], None),
        ("np.arange(3, dtype='>i2')", [(None, "int16", (3,), struct.pack("<3h", 0, 1, 2))], None),
        ("np.arange(6, dtype='i1').reshape(2, 3).T", [(None, "int8", (3, 2), bytes([0, 3, 1, 4, 2, 5]))], None),
        ("np.arange(6, dtype='u1')[::2]", [(None, "uint8", (3,), bytes([0, 2, 4]))], None),
        ("np.ones(2, dtype='f2')", [(None, "float32", (2,), np.ones(2, "f4").tobytes())], None),
        ("np.empty((0, 4), dtype='i8')", [(None, "int64", (0, 4), b"")], None),
        ("torch.ones(2, dtype=torch.bfloat16)", [(None, "float32", (2,), np.ones(2, "f4").tobytes())], None),
        ("torch.ones(2, requires_grad=True)", [(None, "float32", (2,), np.ones(2, "f4").tobytes())], None),
        (
            "{'v':np.array([True]),'n':np.float32(0.5),'d': [np.arange(2), {'t': torch.ones(1)}],'s': torch.tensor(3)}",
            [("v", "bool", (1,), b"\1")],
            {"n": 0.5, "d": [[0, 1], {"t": [1.0]}], "s": 3},
        ),
        ("{'a': np.arange(1, dtype='u1'), 'b': np.arange(2, dtype='u1')}",
         [("a", "uint8", (1,), b"\0"), ("b", "uint8", (2,), b"\0\1")], {}),
        ("np.float64(2)", [], 2.0),
        ("np.array(4)", [], 4),
        ("'a\\ud800b'", [], "a\ufffdb"),
        ("{'\\ud800': 1}", [], {"\ufffd": 1}),
        ("{1: 2}", [], {"1": 2}),
    ],
)  # fmt: skip
def test_results_are_json_with_arrays_beside_it(open_class: Open, expr: str, tensors: list[Tensor], value: Any) -> None:
    output = run(open_class(ECHO.format(expr=expr)), 0)
    assert output.error is None and output.results == [(value, tensors)]


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("object()", "an object of type object is no JSON"),
        ("float('nan')", "not JSON compliant"),
        ("np.array([1j])", "dtype complex128"),
        ("np.array(['a'])", "dtype str32"),
        ("{'x': np.array([object()])}", "dtype object"),
        ("b'bytes'", "type bytes is no JSON"),
    ],
)
def test_a_result_that_cannot_be_sent_is_that_inputs_error(open_class: Open, expr: str, said: str) -> None:
    output = run(open_class(ECHO.format(expr=f"{expr} if x else 'fine'")), 1, 0, 1)
    bad, fine, also = output.results
    assert fine == ("fine", [])
    assert isinstance(bad, dict) and isinstance(also, dict)
    assert bad["code"] == "python_error" and said in bad["message"] and "input 0" in bad["message"]
    assert "input 2" in also["message"]


def test_an_exception_in_place_of_a_result_is_that_inputs_error(open_class: Open) -> None:
    handler = open_class(ECHO.format(expr="x if x else KeyError('no such word')"))
    good, bad = run(handler, 1, 0).results
    assert good == (1, []) and isinstance(bad, dict)
    assert (bad["code"], bad["python"]["pythonType"]) == ("python_error", "KeyError")


def test_what_forward_raises_is_the_error_of_all(open_class: Open) -> None:
    handler = open_class("class M:\n    def forward(self, batch):\n        raise KeyError('no such word')\n")
    output = run(handler, 1, 2)
    assert output.results == [] and output.error is not None
    assert output.error["python"]["pythonType"] == "KeyError" and output.error["stage"] == "forward"
    assert "in forward" in output.error["python"]["traceback"]


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("batch[1:]", "M.forward got 3 inputs and returned 2 results"),
        ("batch * 2", "got 3 inputs and returned 6"),
        ("[]", "returned 0"),
        ("None", "must return a list, got NoneType"),
        ("'abc'", "got str"),
        ("dict.fromkeys(batch)", "got dict"),
        ("(x for x in batch)", "got generator"),
        ("np.zeros((2, 3))", "returned 2"),
    ],
)
def test_the_wrong_number_of_results_is_an_error(open_class: Open, expr: str, said: str) -> None:
    handler = open_class(f"class M:\n    def forward(self, batch):\n        return {expr}\n")
    error = run(handler, 1, 2, 3).error
    assert error is not None and error["code"] == "python_error"
    assert said in error["message"] and "same order" in error["remedy"]


def test_rows_of_one_array_are_results(open_class: Open) -> None:
    handler = open_class("class M:\n    def forward(self, batch):\n        return np.eye(2, dtype='f4')\n")
    rows = [(None, [(None, "float32", (2,), struct.pack("<2f", *row))]) for row in ((1, 0), (0, 1))]
    assert run(handler, 0, 0).results == rows


def test_a_record_of_the_wrong_kind_is_answered_in_its_own_kind(open_class: Open) -> None:
    handler = open_class(ECHO.format(expr="x"))
    output = decode_output(handler.step(StepRecord(step_id=3).encode()))
    assert output.step_id == 3 and output.error is not None and "kind 1 where 2" in output.error["message"]


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
def test_what_is_kept_of_an_input_never_changes(open_class: Open) -> None:
    """Views are kept over many later forwards, whose records reuse whatever memory is free."""
    handler = open_class(
        """
        class M(pillion.Model):
            def load(self, context):
                self.kept = []

            def forward(self, batch):
                for x in batch:
                    a = x["a"]
                    self.kept.append((a[2:], memoryview(a)[2:], torch.from_numpy(a)[2:], a[2:].tolist()))
                return [all(v.tolist() == w for *vs, w in self.kept[:20] for v in vs)] * len(batch)
        """
    )
    for number in range(1000):
        data = np.arange(number, number + 50, dtype="i4").tobytes()
        record = bytearray(encode_forward(number, [({}, [("a", "int32", (50,), data)])]))
        output = decode_forward_output(handler.step(record))
        # The sender's buffer is the sender's to use again.
        record[:] = bytes(len(record))
        assert output.results == [(True, [])]


def test_closing_gives_the_model_back(open_class: Open, capsys: pytest.CaptureFixture[str]) -> None:
    handler = open_class(
        "class M:\n    def __del__(self):\n        print('gone')\n    def forward(self, batch):\n        return batch\n"
    )
    handler.close()
    gc.collect()
    assert capsys.readouterr().out == "gone\n"


def test_modules_beside_the_file_are_found_but_hide_none(open_class: Open, tmp_path: Path) -> None:
    (tmp_path / "helper_of_model.py").write_text("WORD = 'beside'\n")
    (tmp_path / "json.py").write_text("raise RuntimeError('hidden')\n")
    source = "import json, helper_of_model\n" + ECHO.format(expr="[helper_of_model.WORD, json.dumps(1)]")
    assert values(run(open_class(source), 0)) == [["beside", "1"]]


def test_a_file_is_read_anew_and_keeps_its_name(open_class: Open, tmp_path: Path) -> None:
    for word in ("first", "second"):
        handler = open_class(ECHO.format(expr=f"[{word!r}, __name__]"), name="own_model.py")
        assert values(run(handler, 0)) == [[word, "own_model"]]
    other = open_class(ECHO.format(expr="__name__"), name="other/own_model.py")
    assert values(run(other, 0)) == ["pillion_model_0"]
    taken = open_class(ECHO.format(expr="__name__"), name="json.py")
    assert values(run(taken, 0)) == ["pillion_model_1"]
    assert sys.modules["json"] is json


def test_a_module_is_found_by_name(open_class: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app_of_test").mkdir()
    source = "class Outer:\n    class M(pillion.Model):\n        def forward(self, batch):\n            return batch\n"
    handler = open_class(source, "app_of_test.models:Outer.M", name="app_of_test/models.py")
    assert values(run(handler, 4)) == [4]


@pytest.mark.parametrize(
    ("spec", "kind", "said"),
    [
        ("model.py", InvalidArgumentError, "'path/to/file.py:Name'"),
        (":M", InvalidArgumentError, "got ':M'"),
        ("model.py:", InvalidArgumentError, "got 'model.py:'"),
        ("nowhere/model.py:M", ModelNotFoundError, "there is no file"),
        ("no_such_package.models:M", ModelNotFoundError, "there is no module no_such_package.models"),
        ("json.nothing:M", ModelNotFoundError, "there is no module json.nothing"),
        ("json:Nothing", ModelNotFoundError, "has nothing of the name Nothing"),
        ("json:dumps", ModelNotFoundError, "no class but function of the name dumps"),
        ("json:JSONDecoder", InvalidArgumentError, "has no method forward"),
    ],
)
def test_what_is_no_class_is_named(open_class: Open, spec: str, kind: type[PillionError], said: str) -> None:
    with pytest.raises(kind) as caught:
        open_class("", spec)
    assert said in caught.value.message and caught.value.param == "model.class"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("import no_such_module\n", ModuleNotFoundError),
        ("class M:\n    def load(self, c):\n        raise LookupError\n    forward = print\n", LookupError),
        ("class M:\n    def __init__(self, must):\n        pass\n    forward = print\n", TypeError),
        ("syntax error\n", SyntaxError),
    ],
)
def test_what_the_class_raises_while_it_loads_passes(open_class: Open, source: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        open_class(source)


def test_the_base_class_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError, match="Model has no forward"):
        pillion.Model().forward([])


def test_importing_the_package_imports_no_numpy() -> None:
    assert torch.__version__
    import subprocess

    code = "import sys, pillion, pillion.worker, pillion.runners.callable; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
