"""Credentials as clients really send them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gguf_server.auth import authenticate, bearer_tokens, check_role
from gguf_server.errors import PermissionDenied, Unauthorized
from gguf_server.keys import KeyIdentity, KeyRing

TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1).filter(
    lambda token: token not in {"undefined", "null"}
)
SCHEMES = st.sampled_from(["Bearer ", "bearer ", "BEARER  ", " bEaReR\t"])


def headers(*authorization: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict([("authorization", value) for value in authorization]))


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys.json", ["right", "other"])


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        ((), []),
        (("Bearer a",), ["a"]),
        (("bearer a", "BEARER b"), ["a", "b"]),
        (("Bearer a, Bearer b",), ["a", "b"]),
        (("Bearer b, Bearer a", "Bearer b"), ["b", "a"]),
        (("Bearer", "Bearer ", "Bearer undefined", "Bearer null", ""), []),
        (("Basic dXNlcjpwYXNz", "a"), []),
        (("Basic x, Bearer a",), ["a"]),
        (("Bearera",), []),
    ],
)
def test_tokens_are_found_in_every_header_and_between_commas(values: tuple[str, ...], tokens: list[str]) -> None:
    assert bearer_tokens(headers(*values)) == tokens


@given(st.lists(st.lists(st.tuples(SCHEMES, TOKENS), min_size=1, max_size=3), max_size=3))
def test_how_credentials_are_spread_over_headers_makes_no_difference(spread: list[list[tuple[str, str]]]) -> None:
    values = [",".join(scheme + token for scheme, token in header) for header in spread]
    expected = list(dict.fromkeys(token for header in spread for _, token in header))
    assert bearer_tokens(headers(*values)) == expected
    assert bearer_tokens(headers(", ".join(values))) == expected


@given(st.lists(st.text(st.characters(exclude_categories=()))))
def test_no_header_value_makes_parsing_fail(values: list[str]) -> None:
    for token in bearer_tokens(headers(*values)):
        assert token == token.strip()
        assert any(token in value for value in values)


@pytest.mark.parametrize(
    "values",
    [
        ("Bearer right",),
        ("Bearer not-needed", "Bearer right"),
        ("Bearer right", "Bearer not-needed"),
        ("Bearer not-needed, Bearer right",),
        ("Bearer right", "bearer right"),
        ("Bearer undefined", "Bearer right"),
    ],
)
def test_one_right_key_identifies_whatever_stands_beside_it(ring: KeyRing, values: tuple[str, ...]) -> None:
    assert authenticate(headers(*values), ring) == KeyIdentity("env-1", "env-1")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "missing"),
        (("Bearer null",), "missing"),
        (("Basic right",), "missing"),
        (("Bearer s3cret",), "wrong"),
        (("Bearer s3cret", "Bearer s3cret-too"), "wrong"),
        (("Bearer Right",), "wrong"),
        (("Bearer \udcff",), "wrong"),
        (("Bearer right, Bearer other",), "ambiguous"),
        (("Bearer right", "Bearer s3cret", "Bearer other"), "ambiguous"),
    ],
)
def test_a_refusal_says_why_and_never_the_token(ring: KeyRing, values: tuple[str, ...], message: str) -> None:
    with pytest.raises(Unauthorized, match=f"^{message}") as raised:
        authenticate(headers(*values), ring)
    assert raised.value.status == 401
    assert raised.value.headers["WWW-Authenticate"] == "Bearer"
    assert "s3cret" not in str(raised.value.body())
    assert "right" not in str(raised.value.body())


def test_a_key_of_the_other_kind_is_told_which_is_needed() -> None:
    user, admin = KeyIdentity("u", "u"), KeyIdentity("a", "a", "admin")
    check_role(user, "user")
    check_role(admin, "admin")
    with pytest.raises(PermissionDenied, match="needs an admin key"):
        check_role(user, "admin")
    with pytest.raises(PermissionDenied, match="asks no model"):
        check_role(admin, "user")
