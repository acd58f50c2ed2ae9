"""What is shown of vLLM's and llama-server's output once they serve."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.process import ChildProcess
from backends.served_lines import showing
from backends.vllm.failures import HARMLESS

show = showing(HARMLESS)

WHOLE = [
    "(APIServer pid=12) INFO 11-24 21:49:12 [loggers.py:273] Engine 000: Avg prompt throughput: 1.0 tokens/s",
    "(EngineCore pid=34) ERROR 11-24 21:49:12 [core.py:1083] Traceback (most recent call last):",
    '(EngineCore pid=34) ERROR 11-24 21:49:12 [core.py:1083]   File "/x/vllm/v1/core.py", line 7, in run',
    "(EngineCore pid=34) ERROR 11-24 21:49:12 [core.py:1083] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB",
    "RuntimeError: CUDA error: an illegal memory access was encountered",
    "(APIServer pid=12) INFO:     Application shutdown complete.",
    "",
]
CUT = {
    "(APIServer pid=12) ERROR 11-24 21:49:12 [serving.py:9] jinja2.exceptions.TemplateError: SECRET": (
        "(APIServer pid=12) ERROR 11-24 21:49:12 [serving.py:9] jinja2.exceptions.TemplateError: …"
    ),
    "(APIServer pid=12) WARNING 11-24 21:49:12 [parser.py:9] No tool named 'SECRET'.": (
        "(APIServer pid=12) WARNING 11-24 21:49:12 [parser.py:9] …"
    ),
    "ValueError: invalid literal SECRET": "ValueError: …",
    "    raise ValueError(SECRET)": "…",
    "(EngineCore pid=34) ERROR 11-24 21:49:12 [dump_input.py:72] Dumping input data for V1 LLM engine SECRET": (
        "(EngineCore pid=34) ERROR 11-24 21:49:12 [dump_input.py:72] …"
    ),
    "parse: error parsing grammar: SECRET": "…",
}


@pytest.mark.parametrize("line", WHOLE)
def test_what_the_program_alone_makes_is_shown(line: str) -> None:
    assert show(line) == line


@pytest.mark.parametrize("line", CUT)
def test_what_may_repeat_a_request_is_not(line: str) -> None:
    assert show(line) == CUT[line]


@given(st.text(alphabet=st.characters(codec="utf-8", categories=["L", "N"]), min_size=12))
def test_no_word_of_an_unknown_line_is_shown(secret: str) -> None:
    for before in (
        "",
        "ERROR 11-24 21:49:12 [a.py:1] ",
        "(EngineCore pid=3) INFO 11-24 21:49:12 [b.py:2] ",
        "KeyError: ",
    ):
        assert secret not in show(f"{before}{secret} was asked")


async def test_a_child_that_serves_is_shown_through_it() -> None:
    child = ChildProcess.start("test", (sys.executable, "-c", "print('KeyError: SECRET')"), {})
    child.show(show)
    await child.wait()
    assert child.log_tail() == ("KeyError: …",)
