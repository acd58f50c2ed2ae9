"""The real program, reconfigured while it answers."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tests.e2e.client import CHAT, Client, chat, chunks, endless, error_of
from tests.e2e.program import Program, run_command, until

CONFIG = """
[server]
watch = {watch}
log_format = "json"
[services.demo]
aliases = ["{alias}"]
"""


def rewrite(program: Program, *, alias: str, watch: str = "false", more: str = "") -> None:
    """As editors do: a new file in place of the old one."""
    new = program.folder / "new.toml"
    new.write_text(CONFIG.format(alias=alias, watch=watch) + more)
    new.replace(program.folder / "own.toml")


def knows(client: Client, alias: str) -> bool:
    return client.get(f"/v1/models/{alias}").status_code == 200


def says(program: Program, words: str) -> bool:
    return words in program.printed()


def test_a_running_program_goes_by_what_its_file_says_now(start: Callable[..., Program]) -> None:
    program = start(config=CONFIG.format(alias="first", watch="false"))
    program.becomes_ready()
    client, worker = Client(program.url()), program.worker()
    with client.stream(CHAT, endless(stream=True, max_tokens=200)) as (_, running):
        first = next(running)
        rewrite(program, alias="second")
        program.process.send_signal(signal.SIGHUP)
        until(lambda: knows(client, "second"), what="the new alias")
        assert not knows(client, "first")
        rewrite(program, alias="third", more="max_queu = 3\n")
        program.process.send_signal(signal.SIGHUP)
        until(lambda: says(program, "services.demo.max_queu: unknown key; did you mean max_queue?"), what="a refusal")
        assert knows(client, "second")
        found = chunks([first, *running])
    assert found[-1]["choices"][0]["finish_reason"] == "length"
    rewrite(program, alias="third", watch="true")
    program.process.send_signal(signal.SIGHUP)
    until(lambda: knows(client, "third"), what="the third alias")
    rewrite(program, alias="fourth", watch="true")  # and nobody tells it
    until(lambda: knows(client, "fourth"), what="the alias that the file was seen to have")
    assert program.worker() == worker
    assert client.get("/status").json()["engines"][0]["starts"] == 1


def test_an_admin_governs_from_the_command_line(start: Callable[..., Program]) -> None:
    program = start()
    program.becomes_ready()
    client, worker = Client(program.url()), program.worker()

    def admin(*arguments: str) -> str:
        done = run_command(program.folder, "admin", *arguments, "--url", program.url(), "--key", token)
        assert done.returncode == expected, done.stderr
        return done.stdout + done.stderr

    token, expected = "no-key-yet", 1
    assert "--admin" in admin("status")
    token, expected = run_command(program.folder, "keys", "create", "operator", "--admin").stdout.strip(), 0
    assert "demo  ready  llama.cpp" in admin("status")
    error_of(Client(program.url(), token).post(CHAT, chat()), 403)
    admin("restart", "demo", "llama.cpp")
    assert client.post(CHAT, chat(max_tokens=2)).status_code == 200  # it waited for the new worker
    assert program.worker() != worker
    assert "nothing has changed" in admin("reload")
    assert token not in program.printed()
