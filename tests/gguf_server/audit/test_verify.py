"""What is found in a chain that somebody changed who has not the key."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_server.audit.chain import BEGINNING, Position, seal, unseal
from tests.gguf_server.audit.chains import KEYS, OTHER_KEYS, chain, judge

N_LINES = 6
LINES, END = chain(N_LINES)
WHOLE = b"".join(LINES)

numbers = st.integers(0, N_LINES - 1)


def test_an_untouched_chain_is_sound() -> None:
    verdict = judge(WHOLE, END)
    assert verdict.is_sound
    assert (verdict.n_lines, verdict.last, verdict.notes) == (N_LINES, END, [])


def test_the_head_may_be_behind_the_lines_that_are_written_just_now() -> None:
    behind = unseal(KEYS.chain, LINES[3].removesuffix(b"\n"))
    assert behind is not None
    assert judge(WHOLE, behind.position).is_sound


@given(numbers)
def test_every_removed_line_is_missed(number: int) -> None:
    verdict = judge(b"".join(LINES[:number] + LINES[number + 1 :]), END)
    assert not verdict.is_sound
    assert str(number + 1) in str(verdict.faults[0])


@given(numbers, st.integers(1, N_LINES))
def test_every_removed_stretch_is_missed(start: int, n: int) -> None:
    assert not judge(b"".join(LINES[:start] + LINES[start + n :]), END).is_sound


@given(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]))
def test_every_swap_is_noticed(pair: tuple[int, int]) -> None:
    lines = list(LINES)
    lines[pair[0]], lines[pair[1]] = lines[pair[1]], lines[pair[0]]
    assert not judge(b"".join(lines), END).is_sound


@given(numbers, numbers)
def test_every_line_that_was_put_in_again_is_noticed(taken: int, place: int) -> None:
    lines = [*LINES[: place + 1], LINES[taken], *LINES[place + 1 :]]
    assert not judge(b"".join(lines), END).is_sound


@given(st.integers(1, 255))
@settings(max_examples=8)
def test_every_changed_byte_is_noticed(by: int) -> None:
    for at in range(len(WHOLE)):
        changed = bytearray(WHOLE)
        changed[at] ^= by
        assert not judge(bytes(changed), END).is_sound


def test_every_cut_at_the_end_is_noticed() -> None:
    for length in range(len(WHOLE)):
        assert not judge(WHOLE[:length], END).is_sound


@given(st.binary(max_size=300), numbers)
def test_every_inserted_text_is_noticed(text: bytes, place: int) -> None:
    lines = [*LINES[:place], text + b"\n", *LINES[place:]]
    assert not judge(b"".join(lines), END).is_sound


def test_an_altered_line_is_named_by_its_place_and_only_once() -> None:
    lines = list(LINES)
    lines[2] = lines[2].replace(b'"status":202', b'"status":500')
    (fault,) = judge(b"".join(lines), END).faults
    assert str(fault) == "audit.jsonl:3: altered, or not a line of this server"


def test_a_line_sealed_with_another_key_is_noticed() -> None:
    forged, _ = seal(OTHER_KEYS.chain, END, {"event": "request"})
    assert not judge(WHOLE + forged, END).is_sound


def test_a_copy_that_went_on_does_not_pass_for_the_chain() -> None:
    """The server was run on a backup: its lines are sealed with the right key."""
    on_the_copy, _ = seal(KEYS.chain, Position(3, unsealed_mac(2)), {"event": "request", "key_id": "other"})
    assert not judge(b"".join([*LINES[:3], on_the_copy, *LINES[4:]]), END).is_sound
    assert not judge(b"".join([*LINES[: N_LINES - 1], _other_last_line()]), END).is_sound


def unsealed_mac(number: int) -> str:
    line = unseal(KEYS.chain, LINES[number].removesuffix(b"\n"))
    assert line is not None
    return line.position.mac


def _other_last_line() -> bytes:
    line, _ = seal(KEYS.chain, Position(N_LINES - 1, unsealed_mac(N_LINES - 2)), {"event": "request", "status": 1})
    return line


def test_without_a_head_the_end_cannot_be_vouched_for() -> None:
    assert not judge(WHOLE, None).is_sound
    verdict = judge(WHOLE, None, is_partial=True)
    assert verdict.is_sound
    assert "no head file" in str(verdict.notes[0])


def test_a_beginning_that_was_put_away_is_told_and_passes_only_where_that_is_known() -> None:
    rest = b"".join(LINES[2:])
    (fault,) = judge(rest, END).faults
    assert "lines 1 to 2 are not here" in str(fault)
    verdict = judge(rest, END, is_partial=True)
    assert verdict.is_sound
    assert verdict.notes == [fault]


def test_a_line_in_the_middle_of_being_written_is_no_fault_unless_the_head_has_it() -> None:
    unfinished, position = seal(KEYS.chain, END, {"event": "request"})
    assert judge(WHOLE + unfinished[:-9], END).is_sound
    assert not judge(WHOLE + unfinished[:-9], position).is_sound


def test_gaps_that_the_server_recorded_are_repeated() -> None:
    torn, after_torn = seal(KEYS.chain, END, {"event": "gap", "kind": "torn_line", "bytes": 7})
    verdict = judge(WHOLE + torn, after_torn)
    assert verdict.is_sound
    assert "torn line (bytes 7)" in str(verdict.notes[0])
    missing, after_missing = seal(KEYS.chain, END, {"event": "gap", "kind": "lines_missing", "first": 3, "last": 6})
    assert "lines missing (first 3, last 6)" in str(judge(WHOLE + missing, after_missing).faults[0])


def test_an_empty_audit_is_sound_only_if_its_head_says_so() -> None:
    assert judge(b"", BEGINNING).is_sound
    assert not judge(b"", END).is_sound
