"""The admin API: who may use it, and that nobody's answer suffers by it."""

from __future__ import annotations

import asyncio

import pytest

from gguf_server.api.admin_operations import AdminOverview
from gguf_server.commands.admin import call
from tests.gguf_server.gateway import KEY
from tests.gguf_server.reloading import ADMIN, Running, engine, running, service
from tests.gguf_server.test_reload import ENGINE, SLOW, assert_whole

PATHS = [
    ("GET", "/admin/services"),
    ("POST", "/admin/reload"),
    ("POST", "/admin/drain"),
    ("POST", "/admin/resume"),
    ("POST", "/admin/services/s/drain"),
    ("POST", "/admin/services/s/resume"),
    ("POST", "/admin/services/s/engine"),
    ("POST", "/admin/services/s/engines/a/restart"),
]


async def streams(here: Running, n: int) -> list[asyncio.Task[object]]:
    """So many that are running."""
    tasks = [asyncio.create_task(here.ask(stream=True)) for _ in range(n)]
    await here.until(lambda: sum(len(link.serving.uses) for link in here.chain().links if link.serving) == n)
    return tasks  # type: ignore[return-value]


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_without_an_admin_key_there_is_nothing_there(method: str, path: str) -> None:
    async with running({}, admins=()) as here:
        for key in (KEY, ADMIN):
            status, body = await here.call(method, path, {"engine": None}, key)
            assert (status, body["error"]["code"]) == (404, "not_found")


async def test_the_description_tells_of_all_of_it() -> None:
    async with running({"s": service(engine("a", *ENGINE))}) as here:
        _, document = await here.call("GET", "/openapi.json")
    told = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith("/admin/")
    }
    assert told == {(method, path.replace("/s/", "/{service}/").replace("/a/", "/{engine}/")) for method, path in PATHS}


async def test_each_kind_of_key_is_for_its_own() -> None:
    async with running({"s": service(engine("a", *ENGINE))}) as here:
        await here.until_up()
        for method, path in PATHS:
            assert (await here.call(method, path, {"engine": None}, "wrong"))[0] == 401
            status, body = await here.call(method, path, {"engine": None}, KEY)
            assert (status, body["error"]["code"]) == (403, "wrong_role")
        chat = {"messages": [{"role": "user", "content": "x"}]}
        for path in ("/v1/chat/completions", "/chat", "/v1/completions"):
            assert (await here.call("POST", path, chat))[0] == 403
        assert (await here.call("GET", "/status"))[0] == 200
        assert here.records[-1].key_id == "admin-env-1"
        assert (await here.call("GET", "/admin/nothing"))[0] == 404
        assert (await here.call("PUT", "/admin/reload"))[0] == 405


async def test_services_tell_what_they_are_and_what_the_last_reload_came_to() -> None:
    of = service(engine("a", *ENGINE), engine("b", *ENGINE))
    async with running({"s": of}) as here:
        await here.until_up()
        _, told = await here.call("GET", "/admin/services")
        assert AdminOverview.model_validate(told).last_reload is None
        assert [told["services"]["s"][key] for key in ("ready", "paused", "engine", "pinned", "in_flight")] == [
            True, False, "a", None, 0
        ]  # fmt: skip
        assert [(one["id"], one["phase"]) for one in told["services"]["s"]["engines"]] == [
            ("0:a", "up"),
            ("1:b", "down"),
        ]
        here.wanted[0] = {"services": {"s": of | {"max_queue": -3}}}
        status, refused = await here.call("POST", "/admin/reload")
        assert (status, refused["error"]["code"]) == (409, "configuration_refused")
        assert (await here.call("GET", "/admin/services"))[1]["last_reload"]["ok"] is False
        here.wanted[0] = {"server": {"port": 0}, "services": {"s": of | {"max_queue": 3}}}
        status, done = await here.call("POST", "/admin/reload")
        assert (status, done["ok"], done["changes"]) == (200, True, ["services.s: max_queue changed"])
        assert done["asked_by"] == "admin admin-env-1"


async def test_answers_are_told_to_a_person_at_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    async with running({"s": service(engine("a", *ENGINE))}) as here:
        await here.until_up()

        async def said(method: str, path: str, key: str | None = ADMIN, **body: str | None) -> tuple[int, str]:
            status = await asyncio.to_thread(call, method, here.url + path, key, body=body or None, json_wanted=False)
            told = capsys.readouterr()
            return status, "\n".join(line for line in (told.out + told.err).splitlines() if not line.startswith("20"))

        await here.reload({"s": service(engine("a", *ENGINE), max_queue=3)}, host="::1")
        status, text = await said("GET", "/admin/services")
        assert (status, text.splitlines()[:2]) == (
            0,
            ["s  ready  a  0 running, 0 waiting", "    0:a  up  0 requests"],
        )
        assert "by test: ok" in text
        assert "    server.host takes effect at the next start" in text
        assert (await said("POST", "/admin/services/s/engine", engine="a"))[1] == "s: it answers new requests"
        assert (await said("POST", "/admin/services/z/drain"))[0] == 1
        assert (await said("GET", "/admin/services", KEY))[1].startswith("this needs an admin key")
        assert (await said("GET", "/admin/services", None))[0] == 2
    unheard = "http://127.0.0.1:9/admin/services"
    assert call("GET", unheard, ADMIN, body=None, json_wanted=False) == 1
    assert "no answer of a gguf-server" in capsys.readouterr().err


async def test_a_drained_service_ends_what_it_has_begun_and_refuses_more_until_it_is_resumed() -> None:
    async with running({"s": service(engine("a", *SLOW))}) as here:
        await here.until_up()
        begun = await streams(here, 3)
        for _ in range(2):
            status, told = await here.call("POST", "/admin/services/s/drain")
            assert (status, told["services"]["s"]["paused"]) == (200, True)
        refused = await here.ask(stream=True)
        assert refused.error is not None
        assert (refused.status, refused.error["code"]) == (503, "service_paused")
        assert int(refused.headers["retry-after"]) > 0
        assert (await here.call("GET", "/health", key=KEY))[0] == 503
        for reply in await asyncio.gather(*begun):
            assert_whole(reply)  # type: ignore[arg-type]
        await here.reload({"s": service(engine("a", *SLOW), max_queue=9)})
        assert (await here.ask()).status == 503
        assert (await here.call("POST", "/admin/resume"))[0] == 200
        assert_whole(await here.ask(stream=True))
        assert (await here.call("POST", "/admin/drain"))[0] == 200
        assert (await here.ask()).status == 503


async def test_a_restart_keeps_every_answer_whole() -> None:
    async with running({"s": service(engine("a", *SLOW))}) as here:
        await here.until_up()
        begun = await streams(here, 4)
        status, told = await here.call("POST", "/admin/services/s/engines/a/restart")
        assert (status, told["action"]) == (202, "restart")
        begun += [asyncio.create_task(here.ask(stream=True)) for _ in range(4)]
        for reply in await asyncio.gather(*begun):
            assert_whole(reply)  # type: ignore[arg-type]
        assert here.chain().links[0].n_starts == 2


@pytest.mark.parametrize("card", [None, 0])
async def test_a_switch_keeps_every_answer_whole(card: int | None) -> None:
    of = service(engine("a", *SLOW, card=card), engine("b", *SLOW, card=card))
    async with running({"s": of}, has_cards=card is not None) as here:
        await here.until_up()
        begun = await streams(here, 4)
        assert (await here.call("POST", "/admin/services/s/engine", {"engine": "b"}))[0] == 202
        begun += [asyncio.create_task(here.ask(stream=True)) for _ in range(4)]
        await here.until(lambda: here.chain().links[1].serving is not None)
        begun += [asyncio.create_task(here.ask(stream=True)) for _ in range(4)]
        replies = await asyncio.gather(*begun)
        for reply in replies:
            assert_whole(reply)  # type: ignore[arg-type]
        assert [reply.engine for reply in replies[:4] + replies[8:]] == ["a"] * 4 + ["b"] * 4  # type: ignore[attr-defined]
        assert all(reply.n_failovers == 0 for reply in replies)  # type: ignore[attr-defined]
        _, told = await here.call("GET", "/admin/services")
        assert told["services"]["s"]["pinned"] == "b"
        assert (await here.call("POST", "/admin/services/s/engine", {"engine": None}))[0] == 202


async def test_what_is_asked_for_and_not_there_is_named() -> None:
    of = service(engine("a", *ENGINE), engine("b", *ENGINE))
    async with running({"s": of}) as here:
        await here.until_up()
        assert (await here.call("POST", "/admin/services/z/drain"))[0] == 404
        assert (await here.call("POST", "/admin/services/s/engines/z/restart"))[0] == 404
        status, told = await here.call("POST", "/admin/services/s/engines/b/restart")
        assert (status, told["error"]["code"]) == (409, "conflict")
        assert "switch to it" in told["error"]["message"]
        assert (await here.call("POST", "/admin/services/s/engine", {"engine": 3}))[0] == 422
        assert (await here.call("POST", "/admin/services/s/engine", {"engin": "a"}))[0] == 422
        assert [(record.key_id, record.service) for record in here.records[-1:]] == [("admin-env-1", "s")]
