"""The real package, which also knows the models of the conformance suite: whatever imports it runs the real code."""

from pathlib import Path

_real = Path(__file__).resolve().parents[4] / "python" / "pillion"
__path__ = [str(_real)]
exec(compile((_real / "__init__.py").read_text("utf-8"), str(_real / "__init__.py"), "exec"))

import conformance_models  # noqa: E402

conformance_models.install()
