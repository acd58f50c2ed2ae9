"""One tree of errors, one JSON shape.

    GatewayError                 status  type                     code
    ├── BadRequest               400     invalid_request_error    (given)
    │   └── ContextExceeded      400     invalid_request_error    context_length_exceeded
    ├── Unauthorized             401     authentication_error     invalid_api_key, key_expired
    ├── PermissionDenied         403     permission_error         (given)
    ├── NotFound                 404     invalid_request_error    not_found
    │   └── ModelNotFound        404     invalid_request_error    model_not_found
    ├── MethodNotAllowed         405     invalid_request_error    method_not_allowed
    ├── RequestTooSlow           408     invalid_request_error    request_too_slow
    ├── Conflict                 409     invalid_request_error    conflict
    ├── BodyTooLarge             413     invalid_request_error    body_too_large
    ├── UnsupportedEncoding      415     invalid_request_error    unsupported_encoding
    ├── ExpectationFailed        417     invalid_request_error    expectation_failed
    ├── WrongHost                421     invalid_request_error    wrong_host
    ├── WrongShape               422     invalid_request_error    (given)
    ├── HeadersTooLarge          431     invalid_request_error    headers_too_large
    ├── QueueFull                429     rate_limit_error         queue_full
    ├── RequestsExceeded         429     requests                 rate_limit_exceeded
    ├── TokensExceeded           429     tokens                   rate_limit_exceeded
    ├── TooManyConnections       429     rate_limit_error         too_many_connections
    ├── EngineBroke              500     engine_error             engine_failed
    ├── NotReady                 503     service_unavailable      engine_not_ready
    ├── Draining                 503     service_unavailable      shutting_down
    ├── AuditDown                503     service_unavailable      audit_unavailable
    ├── Paused                   503     service_unavailable      service_paused
    ├── ServerFull               503     service_unavailable      server_full
    └── TimedOut                 504     timeout_error            request_timeout

Raised where the fact is known; rendered in one place (`gguf_server.middleware`), or, once a stream has begun, as its
last event.
"""

from __future__ import annotations

from typing import Any, ClassVar


class GatewayError(Exception):
    """An answer that is not the one asked for.

    `headers` go out with the answer; `param` names the field at fault, as OpenAI's errors do.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}
        if code is not None:
            self.code = code

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class BadRequest(GatewayError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextExceeded(BadRequest):
    code = "context_length_exceeded"


class Unauthorized(GatewayError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code, headers={"WWW-Authenticate": "Bearer"})


class PermissionDenied(GatewayError):
    """The key is good, and not for this."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class NotFound(GatewayError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTooSlow(GatewayError):
    status = 408
    type = "invalid_request_error"
    code = "request_too_slow"

    def __init__(self, message: str) -> None:
        # The SDKs would send it twice more by themselves, as slowly.
        super().__init__(message, headers={"x-should-retry": "false"})


class Conflict(GatewayError):
    """What is asked does not go with what is."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        # The SDKs would repeat it, and it would be as impossible.
        super().__init__(message, code=code, headers={"x-should-retry": "false"})


class BodyTooLarge(GatewayError):
    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class UnsupportedEncoding(GatewayError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_encoding"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"Accept-Encoding": "gzip, deflate"})


class ExpectationFailed(GatewayError):
    status = 417
    type = "invalid_request_error"
    code = "expectation_failed"


class WrongHost(GatewayError):
    status = 421
    type = "invalid_request_error"
    code = "wrong_host"


class WrongShape(GatewayError):
    status = 422
    type = "invalid_request_error"
    code = "wrong_shape"


class HeadersTooLarge(GatewayError):
    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class _Retryable(GatewayError):
    """Worth another try after `retry_after_s` seconds, which the SDKs obey."""

    def __init__(self, message: str, *, retry_after_s: int = 1, headers: dict[str, str] | None = None) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after_s), **(headers or {})})


class QueueFull(_Retryable):
    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class RequestsExceeded(_Retryable):
    """`type` as OpenAI has it: what there was too much of."""

    status = 429
    type = "requests"
    code = "rate_limit_exceeded"


class TokensExceeded(RequestsExceeded):
    type = "tokens"


class TooManyConnections(_Retryable):
    status = 429
    type = "rate_limit_error"
    code = "too_many_connections"


class EngineBroke(GatewayError):
    status = 500
    type = "engine_error"
    code = "engine_failed"


class NotReady(_Retryable):
    status = 503
    type = "service_unavailable"
    code = "engine_not_ready"


class Draining(_Retryable):
    status = 503
    type = "service_unavailable"
    code = "shutting_down"


class AuditDown(_Retryable):
    status = 503
    type = "service_unavailable"
    code = "audit_unavailable"


class Paused(_Retryable):
    """An operator has this service take no requests."""

    status = 503
    type = "service_unavailable"
    code = "service_paused"


class ServerFull(_Retryable):
    status = 503
    type = "service_unavailable"
    code = "server_full"


class TimedOut(GatewayError):
    status = 504
    type = "timeout_error"
    code = "request_timeout"

    def __init__(self, message: str) -> None:
        # The SDKs would send it twice more by themselves, to compute as long and in vain.
        super().__init__(message, headers={"x-should-retry": "false"})
