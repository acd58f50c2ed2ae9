"""What the description promises, the server does: tried by schemathesis with the same requests each time."""

from __future__ import annotations

import pytest

from tests.api.conformance import conformance

SEEDED = ("--seed", "1", "--no-shrink")


BODIES = ("--include-path", "/chat", "--include-path", "/v1/chat/completions")
OTHERS = ("--exclude-path", "/chat", "--exclude-path", "/v1/chat/completions")


@pytest.mark.parametrize(
    "looked_at",
    [
        pytest.param(("--phases", "examples,fuzzing", "--max-examples", "5", *BODIES), id="chats"),
        pytest.param(("--phases", "examples,coverage,fuzzing", "--max-examples", "2", *OTHERS), id="the rest"),
    ],
)
async def test_the_server_does_what_the_description_says(looked_at: tuple[str, ...]) -> None:
    """The program of `conformance` looks at all of it, for some minutes."""
    status, report = await conformance(*SEEDED, *looked_at)
    assert status == 0, report
