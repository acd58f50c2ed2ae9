"""What is refused before llama.cpp is asked."""

from __future__ import annotations

import pytest

from backends.base import EngineFailure, FailureReason
from backends.llamacpp.loading import load
from backends.llamacpp.options import parse
from tests.backends.llamacpp.worker import MODEL


def test_a_batch_that_cannot_hold_a_token_of_each_request_is_refused() -> None:
    options = parse(["--model", str(MODEL), "--n-parallel", "64", "--n-batch", "32"])
    with pytest.raises(EngineFailure, match=r"n_batch \(32\)") as refused:
        load(options, lambda _fraction: None)
    assert refused.value.reason is FailureReason.INVALID_SETTINGS
