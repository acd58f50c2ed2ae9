"""A configuration that changes under load: nobody's answer is lost, and what is wrong changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from gguf_server.config import ConfigError
from tests.gguf_server.gateway import Reply, read_reply
from tests.gguf_server.reloading import engine, running, service

N_WORDS = 30
WORDS = " ".join(f"w{i}" for i in range(1, N_WORDS + 1))
ENGINE = ("--answer-words", str(N_WORDS))
SLOW = (*ENGINE, "--token-s", "0.01")


def assert_whole(reply: Reply) -> None:
    assert (reply.status, reply.error, reply.text, reply.finish) == (200, None, WORDS, "stop")


async def test_what_the_gateway_alone_uses_is_changed_in_place() -> None:
    before = service(engine("a", *SLOW), max_concurrent=1)
    async with running({"s": before}) as here:
        await here.until_up()
        streams = [asyncio.create_task(here.ask(stream=True)) for _ in range(3)]
        of = here.gateway.services["s"].admission
        await here.until(lambda: of.n_queued == 2)
        after = before | {"max_concurrent": 1, "aliases": ["other"], "default_max_tokens": 7, "paths": ["", "/too"]}
        outcome = await here.reload({"s": after}, max_body_bytes=1024)
        assert not outcome.problems
        assert outcome.changes == (
            "server: max_body_bytes changed",
            "services.s: aliases, paths, default_max_tokens changed",
        )
        assert (await here.ask("/too", model="other")).status == 200
        big = [{"role": "user", "content": "x" * 2000}]
        assert (await here.ask(messages=big)).status == 413
        for reply in await asyncio.gather(*streams):
            assert_whole(reply)
        assert here.chain().links[0].n_starts == 1


async def test_a_broken_configuration_changes_nothing() -> None:
    of = service(engine("a", *ENGINE))
    async with running({"s": of}) as here:
        await here.until_up()
        here.wanted[0] = ConfigError("line one", "line two")
        outcome = await here.reloader.reload("test")
        assert outcome.problems == ("line one", "line two")
        assert here.reloader.last is outcome
        outcome = await here.reload({"s": of, "t": service(engine("b"), paths=["/t"], max_queue=-1)})
        assert len(outcome.problems) == 1
        assert list(here.gateway.services) == ["s"]
        assert_whole(await here.ask(stream=True))


async def test_twenty_reloads_lose_no_stream() -> None:
    async with running({"s": service(engine("a", *SLOW), paths=["", "/s"])}) as here:
        await here.until_up()
        is_over = False

        async def client() -> list[Reply]:
            replies = []
            while not is_over:
                replies.append(await here.ask(stream=True))
            return replies

        clients = [asyncio.create_task(client()) for _ in range(4)]
        for number in range(20):
            of = service(engine(f"a{number // 5}", *SLOW), paths=["", "/s"], max_queue=number + 50)
            services: dict[str, Any] = {"s": of}
            if number % 10 >= 5:
                services["t"] = service(engine("t", *ENGINE), paths=["/t"])
            assert not (await here.reload(services)).problems
            if number % 4 == 3:
                await here.until_settled()
        is_over = True
        for replies in await asyncio.gather(*clients):
            assert replies
            for reply in replies:
                assert_whole(reply)
        await here.until_settled()
        assert here.chain().links[0].engine.name == "a3"


async def test_a_service_comes_and_goes() -> None:
    of = service(engine("a", *ENGINE), paths=["/s"])
    more = service(engine("b", *SLOW), paths=["/t", "/also"])
    async with running({"s": of}) as here:
        assert (await here.ask("/t")).status == 404
        assert not (await here.reload({"s": of, "t": more})).problems
        await here.until_up("s", "t")
        engine_of_t = here.chain("t").links[0].engine
        stream = asyncio.create_task(here.ask("/t", stream=True))
        await here.until(lambda: here.gateway.services["t"].n_in_flight == 1)
        assert not (await here.reload({"s": of})).problems
        assert (await here.ask("/t")).status == 404
        assert engine_of_t.state == "ready"
        assert_whole(await stream)
        await here.until_settled()
        await here.until(lambda: engine_of_t.state == "stopped")
        assert (await here.ask("/also")).status == 404
        assert (await here.ask("/s")).status == 200


async def test_other_engines_are_loaded_beside_and_take_over_when_they_are_up() -> None:
    async with running({"s": service(engine("a", *SLOW))}) as here:
        await here.until_up()
        stream = asyncio.create_task(here.ask(stream=True))
        await here.until(lambda: here.gateway.services["s"].n_in_flight == 1)
        old = here.chain()
        outcome = await here.reload({"s": service(engine("b", *ENGINE))})
        assert outcome.changes == (
            "services.s: engines changed: other engines are loaded beside the old ones, and take over",
        )
        assert here.chain() is old
        assert (await here.ask()).engine == "a"
        await here.until(lambda: here.chain() is not old)
        assert (await here.ask()).engine == "b"
        assert_whole(await stream)
        await here.until(lambda: old.links[0].engine.state == "stopped")


async def test_engines_that_will_not_start_leave_the_old_ones_in_force() -> None:
    async with running({"s": service(engine("a", *ENGINE))}) as here:
        await here.until_up()
        await here.reload({"s": service(engine("b", "--exit-at-load", "3"), title="New")})
        await here.until(lambda: bool(here.roster.failures))
        assert "the old ones stay" in here.roster.failures["s"]
        assert (await here.ask()).engine == "a"
        assert here.gateway.services["s"].settings.title == "Fake"
        assert not (await here.reload({"s": service(engine("a", *ENGINE))})).problems


async def test_on_one_card_the_old_engines_make_room_and_requests_wait() -> None:
    async with running({"s": service(engine("a", *SLOW, card=0))}, has_cards=True) as here:
        await here.until_up()
        stream = asyncio.create_task(here.ask(stream=True))
        old = here.chain()
        await here.until(lambda: here.gateway.services["s"].n_in_flight == 1)
        await here.reload({"s": service(engine("b", *ENGINE, card=0), model="renamed")})
        new = here.chain()
        waiting = asyncio.create_task(here.ask(stream=True))
        await here.until(lambda: here.gateway.services["s"].n_in_flight == 2)
        assert new.links[0].n_starts == 0
        assert_whole(await stream)
        assert_whole(reply := await waiting)
        assert reply.engine == "b"
        assert old.links[0].engine.state == "stopped"


async def test_engines_that_made_room_in_vain_come_back() -> None:
    broken = [engine(name, "--exit-at-load", "3", card=0) for name in "bc"]
    async with running({"s": service(engine("a", *ENGINE, card=0))}, has_cards=True) as here:
        await here.until_up()
        await here.reload({"s": service(*broken)})
        waiting = asyncio.create_task(here.ask(stream=True))
        assert_whole(reply := await waiting)
        assert reply.engine == "a"
        assert "loaded again" in here.roster.failures["s"]


async def test_a_reload_overtakes_engines_that_are_still_loading() -> None:
    async with running({"s": service(engine("a", *ENGINE))}) as here:
        await here.until_up()
        await here.reload({"s": service(engine("b", "--health-503-forever"))})
        assert "s" in here.roster.moving
        await here.reload({"s": service(engine("b", "--health-503-forever"), max_queue=3)})
        assert "s" in here.roster.moving
        await here.reload({"s": service(engine("c", *ENGINE))})
        await here.until(lambda: here.chain().links[0].engine.name == "c")
        assert_whole(await here.ask(stream=True))
        assert not here.roster.moving


async def test_engines_given_up_while_loading_make_room_for_those_that_come_beside() -> None:
    async with running({"s": service(engine("a", *ENGINE, card=0))}, has_cards=True) as here:
        await here.until_up()
        await here.reload({"s": service(engine("b", "--health-503-forever", card=1))})
        await here.reload({"s": service(engine("c", *ENGINE, card=1))})
        assert (await here.ask()).engine == "a"
        await here.until(lambda: here.chain().links[0].engine.name == "c")


async def test_requests_that_wait_for_engines_move_on_when_those_are_replaced_again() -> None:
    async with running({"s": service(engine("a", *ENGINE, card=0))}, has_cards=True) as here:
        await here.until_up()
        await here.reload({"s": service(engine("b", "--health-503-forever", card=0))})
        waiting = [asyncio.create_task(here.ask(stream=True)) for _ in range(3)]
        await here.until(lambda: here.gateway.services["s"].n_in_flight == 3)
        await here.reload({"s": service(engine("c", *ENGINE, card=0))})
        for reply in await asyncio.gather(*waiting):
            assert_whole(reply)
            assert reply.engine == "c"


async def test_those_who_wait_for_engines_of_a_service_that_is_removed_are_told_to_come_again() -> None:
    of = {"s": service(engine("a", *ENGINE), paths=["/s"]), "t": service(engine("a", *ENGINE, card=0))}
    async with running(of, has_cards=True) as here:
        await here.until_up("t")
        await here.reload(of | {"t": service(engine("b", "--health-503-forever", card=0))})
        waiting = asyncio.create_task(here.ask())
        await here.until(lambda: here.gateway.services["t"].n_in_flight == 1)
        await here.reload({"s": of["s"]})
        reply = await waiting
        assert (reply.status, reply.body["error"]["code"]) == (503, "engine_not_ready")
        assert (await here.ask()).status == 404
        await here.until_settled()


async def test_services_exchange_their_cards() -> None:
    def on(first: int, second: int) -> dict[str, Any]:
        t = service(engine("t", *SLOW, card=second), paths=["/t"])
        return {"s": service(engine("s", *SLOW, card=first)), "t": t}

    async with running(on(0, 1), has_cards=True) as here:
        await here.until_up("s", "t")
        begun = [asyncio.create_task(here.ask(path, stream=True)) for path in ("", "/t")]
        await here.until(lambda: all(of.n_in_flight for of in here.gateway.services.values()))
        await here.reload(on(1, 0))
        begun += [asyncio.create_task(here.ask(path, stream=True)) for path in ("", "/t")]
        for reply in await asyncio.gather(*begun):
            assert_whole(reply)
        await here.until_settled()


async def test_a_body_that_takes_its_time_is_for_the_service_as_it_is_at_its_end() -> None:
    async with running({"s": service(engine("a", *ENGINE))}) as here:
        await here.until_up()
        gate = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b'{"messages": [{"role": "user", '
            await gate.wait()
            yield b'"content": "Count"}]}'

        async def ask() -> Reply:
            url = here.url + "/v1/chat/completions"
            async with here.session.post(url, data=body()) as response:
                return await read_reply(response)

        asking = asyncio.create_task(ask())
        old = here.chain()
        await here.reload({"s": service(engine("b", *ENGINE))})
        await here.until(lambda: old.is_closed and old.links[0].engine.state == "stopped")
        gate.set()
        assert_whole(reply := await asking)
        assert reply.engine == "b"


async def test_own_ports_appear_move_and_disappear(unused_tcp_port_factory: Any) -> None:
    first, second = unused_tcp_port_factory(), unused_tcp_port_factory()
    of = service(engine("a", *SLOW), paths=["/s"])
    async with running({"s": of}) as here:
        await here.until_up()
        assert not (await here.reload({"s": of | {"port": first}})).problems
        stream = asyncio.create_task(here.ask(url=f"http://127.0.0.1:{first}", stream=True))
        await here.until(lambda: here.gateway.services["s"].n_in_flight == 1)
        assert not (await here.reload({"s": of | {"port": second}})).problems
        assert_whole(await here.ask(url=f"http://127.0.0.1:{second}"))
        assert_whole(await stream)
        refused = await here.reload(
            {"s": of | {"port": second}, "t": service(engine("t"), port=here.listeners.port(0))}
        )
        assert "cannot listen" in refused.problems[0]
        assert list(here.gateway.services) == ["s"]


async def test_limits_of_all_keys_change_for_the_next_request() -> None:
    of = service(engine("a", *ENGINE))
    async with running({"s": of}) as here:
        await here.until_up()
        assert (await here.ask()).status == 200
        here.wanted[0] = {"server": {"port": 0}, "limits": {"requests_per_minute": 1}, "services": {"s": of}}
        outcome = await here.reloader.reload("test")
        assert outcome.changes == ("limits: requests_per_minute changed",)
        assert [(await here.ask()).status for _ in range(2)] == [200, 429]


async def test_what_needs_a_restart_is_named_and_stays() -> None:
    of = service(engine("a", *ENGINE))
    async with running({"s": of}) as here:
        outcome = await here.reload({"s": of}, host="127.0.0.2", drain_s=3.0)
        assert outcome.needs_restart == ("server.host",)
        assert (here.gateway.settings.server.host, here.gateway.settings.server.drain_s) == ("127.0.0.1", 3.0)
