"""The audit's key, and the hash of a prompt that is made with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.openai_schema import ChatCompletionRequest
from gguf_server.api.schemas import ChatForm
from gguf_server.audit import secret
from gguf_server.audit.prompt_hash import PromptHasher, prompt_hash
from gguf_server.audit.secret import AuditError
from gguf_server.errors import BadRequest
from tests.gguf_server.audit.chains import KEYS, OTHER_KEYS


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "audit.key"
    made = secret.load_or_make(path, may_make=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret.load_or_make(path, may_make=True) == made
    assert made.chain.hex() not in repr(made)
    assert len({made.chain, made.head, made.prompt, path.read_bytes()}) == 4


def test_a_key_that_is_gone_is_not_replaced_while_lines_need_it(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="the audit's key is not there"):
        secret.load_or_make(tmp_path / "audit.key", may_make=False)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    secret.make(path)
    path.chmod(0o640)
    with pytest.raises(AuditError, match="chmod 600"):
        secret.load(path)


@pytest.mark.parametrize("content", ["", "abc", "x" * 64])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "audit.key"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(AuditError, match="not a key"):
        secret.load(path)


def test_the_same_messages_have_the_same_hash_however_they_were_spelt() -> None:
    chat = ChatCompletionRequest.model_validate(
        {"messages": [{"content": "Xin chào", "role": "user", "name": None}], "temperature": 0.1}
    )
    form = ChatForm.model_validate({"message": "Xin chào"}).as_chat()
    assert _hash(chat) == _hash(form)


def test_other_messages_other_roles_and_other_keys_have_other_hashes() -> None:
    said = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "a"}]})
    others = [
        ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "b"}]}),
        ChatCompletionRequest.model_validate({"messages": [{"role": "system", "content": "a"}]}),
        ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "a", "name": "x"}]}),
    ]
    hashes = [_hash(said), *map(_hash, others), prompt_hash(OTHER_KEYS.prompt, "messages", said.messages)]
    hashes += [prompt_hash(KEYS.prompt, "prompt", "a"), prompt_hash(KEYS.prompt, "input", "a")]
    assert len(set(hashes)) == len(hashes)


async def test_a_large_prompt_has_the_hash_that_a_small_one_would_have() -> None:
    hasher = PromptHasher(KEYS.prompt)
    assert await hasher.hash("prompt", "a", n_bytes=10 << 20) == await hasher.hash("prompt", "a", n_bytes=1)


def test_a_prompt_that_is_nested_too_deeply_is_the_clients_mistake() -> None:
    nested: list[object] = []
    for _ in range(300):
        nested = [nested]
    with pytest.raises(BadRequest, match="nested too deeply"):
        prompt_hash(KEYS.prompt, "prompt", nested)


def _hash(chat: ChatCompletionRequest) -> str:
    return prompt_hash(KEYS.prompt, "messages", chat.messages)
