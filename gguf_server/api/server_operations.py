"""What the routes do that belong to no service."""

from __future__ import annotations

from typing import Final

from gguf_server.api.operations import Answer, Operation
from gguf_server.api.ops_answers import Directory, DirectoryHealth, OpenapiDocument

METRICS: Final = Operation(
    id="getMetrics",
    summary="Figures for Prometheus",
    answers={200: Answer(description="Prometheus' text format.", media_type="text/plain")},
)
DIRECTORY: Final = Operation(
    id="listServices",
    summary="The services of this listener",
    answers={200: Answer(description="What is where.", model=Directory)},
)
DIRECTORY_HEALTH: Final = Operation(
    id="getServerHealth",
    summary="Whether any service can answer",
    answers={
        200: Answer(description="One at least can.", model=DirectoryHealth),
        503: Answer(description="None can now.", model=DirectoryHealth, headers=("Retry-After",)),
    },
    needs_key=False,
)
OPENAPI: Final = Operation(
    id="getOpenapi",
    summary="This description",
    description="OpenAPI 3.1.",
    answers={200: Answer(description="The document.", model=OpenapiDocument)},
    needs_key=False,
)
DOCS: Final = Operation(
    id="getDocs",
    summary="This description as a page",
    description="It takes nothing from elsewhere.",
    answers={200: Answer(description="The page.", media_type="text/html")},
    needs_key=False,
)
