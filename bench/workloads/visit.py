"""Notes of invented visits as JSON: what is asked for, under which schema, and what is wrong with an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson
from jsonschema import Draft202012Validator

from bench.measuring.load import Request
from bench.workloads.clinic import Language

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "case": {"type": "integer", "minimum": 0, "maximum": 999999999},
        "urgency": {"enum": ["emergency", "today", "this_week", "routine"]},
        "complaint": {"type": "string", "maxLength": 60},
        "findings": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"enum": ["pressure", "pulse", "oxygen", "temperature", "glucose", "pain"]},
                    "value": {"type": "integer", "minimum": 0, "maximum": 400},
                    "is_normal": {"type": "boolean"},
                },
                "required": ["name", "value", "is_normal"],
                "additionalProperties": False,
            },
        },
        "next_step": {"type": "string", "maxLength": 60},
    },
    "required": ["case", "urgency", "complaint", "findings", "next_step"],
    "additionalProperties": False,
}
TASKS: Final[Mapping[Language, str]] = {
    "en": "A woman of 67 comes with a swollen right knee since Sunday. Pulse 84, temperature 37, pain 6 of 10. "
    "Write the visit's note as JSON: case, urgency, complaint, findings, next_step.",
    "vi": "Người bệnh nữ 67 tuổi, sưng gối phải từ chủ nhật. Mạch 84, nhiệt độ 37, đau 6 trên 10. "
    "Hãy viết phiếu khám dưới dạng JSON: case, urgency, complaint, findings, next_step.",
    "zh": "女，67岁，星期日起右膝肿胀。脉搏84，体温37，疼痛6分。"
    "请用JSON写门诊记录：case、urgency、complaint、findings、next_step。",
}
_VALIDATOR: Final = Draft202012Validator(SCHEMA)


def why_invalid(request: Request) -> str | None:
    """The place and the rule, without what the answer says."""
    if request.finish_reason == "length":
        return "cut off before the JSON was complete"
    try:
        found = orjson.loads(request.answer)
    except orjson.JSONDecodeError as exc:
        return f"not JSON: {exc.msg} at character {exc.pos}"
    for problem in _VALIDATOR.iter_errors(found):
        return f"not valid under the schema: {problem.json_path} breaks {problem.validator}"
    return None
