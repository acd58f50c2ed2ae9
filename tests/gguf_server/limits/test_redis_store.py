"""Limits that several gateways share, in a real Redis that comes and goes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import structlog
from redis.asyncio import Redis

from gguf_server import keys
from gguf_server.limits.configured import LimitsError, limiting
from gguf_server.limits.limiter import Limiter
from gguf_server.limits.memory_store import MemoryStore
from gguf_server.limits.meters import Ask, Change, Kind, Meter, Store, meters_of
from gguf_server.limits.policy import KeyLimits
from gguf_server.limits.redis_store import RedisStore
from gguf_server.limits.windows import DAY, MINUTE
from gguf_server.settings.limits import LimitsSettings
from tests.gguf_server.gateway import Gateway
from tests.gguf_server.limits.clock import Clock
from tests.gguf_server.limits.conftest import RedisServer
from tests.gguf_server.limits.quick_gateway import engine, quick_gateway

REQUESTS = Meter(Kind.REQUESTS, MINUTE, 20)
TOKENS = Meter(Kind.TOKENS, DAY, 1000)


@asynccontextmanager
async def shared(server: RedisServer, clock: Clock | None = None) -> AsyncIterator[RedisStore]:
    """One gateway's store. `clock`: by which it waits before it tries a server that went away."""
    store = RedisStore(server.url, MemoryStore(), timeout_s=2.0, monotonic_s=clock or time.monotonic)
    try:
        yield store
    finally:
        await store.close()


async def take(store: Store, meter: Meter = REQUESTS, n: int = 1) -> bool:
    return not (await store.take("key", [Ask(meter, n)])).is_refused


async def test_two_gateways_let_in_together_what_one_may(redis_server: RedisServer) -> None:
    async with shared(redis_server) as one, shared(redis_server) as other:
        let_in = await asyncio.gather(*(take(store) for store in (one, other) for _ in range(30)))
        assert sum(let_in) == REQUESTS.limit
        (reading,) = await other.read("key", [REQUESTS])
        assert (reading.used, reading.n_left) == (20, 0)
        refused = await one.take("key", [Ask(REQUESTS, 1)])
        assert 0 < refused.waits_s[0] <= 61
        assert refused.waits_s[0] <= refused.readings[0].reset_s


async def test_all_meters_of_a_request_are_counted_or_none(redis_server: RedisServer) -> None:
    async with shared(redis_server) as store:
        assert await take(store, TOKENS, 900)
        taken = await store.take("key", [Ask(REQUESTS, 1), Ask(TOKENS, 200)])
        assert taken.is_refused
        assert [reading.used for reading in taken.readings] == [0, 900]


@pytest.mark.parametrize("seed", range(3))
async def test_it_counts_as_memory_does(redis_server: RedisServer, seed: int) -> None:
    random = Random(seed)
    limits = KeyLimits(requests_per_minute=40, tokens_per_minute=900, requests_per_day=60, tokens_per_day=1500)
    meters = meters_of(limits)
    memory = MemoryStore()
    async with shared(redis_server) as store:
        leases: list[tuple[list[Ask], tuple[int, ...], tuple[int, ...]]] = []
        for _ in range(100):
            n = random.randint(1, 60)
            asks = [Ask(meter, 1 if meter.kind is Kind.REQUESTS else n) for meter in meters]
            here, there = await memory.take("key", asks), await store.take("key", asks)
            assert [bool(wait_s) for wait_s in here.waits_s] == [bool(wait_s) for wait_s in there.waits_s]
            assert [reading.used for reading in here.readings] == [reading.used for reading in there.readings]
            if not here.is_refused:
                leases.append((asks, here.slots, there.slots))
            if leases and random.random() < 0.7:
                asks, in_memory, in_redis = leases.pop(random.randrange(len(leases)))
                by = random.randint(-60, 20)
                settled = []
                for to, slots in ((memory, in_memory), (store, in_redis)):
                    changes = [
                        Change(ask.meter, slot, max(by, -ask.n_held)) for ask, slot in zip(asks, slots, strict=True)
                    ]
                    settled.append(await to.settle("key", changes))
                assert [r.used for r in settled[0]] == [r.used for r in settled[1]]


async def test_what_is_too_old_no_longer_counts_and_what_lies_ahead_is_forgotten(redis_server: RedisServer) -> None:
    name = "gguf-server:{key}:requests:minute"
    async with shared(redis_server) as store, Redis(unix_socket_path=redis_server.url[7:]) as redis:
        now = int((await redis.time())[0])
        await redis.hset(name, mapping={str(now - 200): "7", str(now - 30): "20"})
        refused = await store.take("key", [Ask(REQUESTS, 1)])
        assert 25 < refused.waits_s[0] <= 31
        assert refused.readings[0].used == 20
        assert await redis.hlen(name) == 1
        await redis.hset(name, str(now + 5000), "20")
        assert await take(store)
        assert 0 < await redis.ttl(name) <= 61 + 60


async def test_while_it_is_gone_each_gateway_counts_by_itself_and_then_together_again(
    redis_server: RedisServer,
) -> None:
    clock = Clock()
    async with shared(redis_server, clock) as one, shared(redis_server, clock) as other:
        assert all([await take(one) for _ in range(15)])
        redis_server.kill()
        with structlog.testing.capture_logs() as logs:
            alone = [await take(one) for _ in range(10)]
            assert sum(alone) == 5  # what it let in before is not forgotten
            assert sum([await take(other) for _ in range(30)]) == 20
        assert [entry["event"] for entry in logs] == [
            "shared limits cannot be reached: each gateway counts by itself"
        ] * 2
        assert not one.is_reachable

        redis_server.start()
        assert not await take(one)  # its pause is not over
        clock.now_s += 1
        with structlog.testing.capture_logs() as logs:
            assert sum([await take(store) for store in (one, other) for _ in range(30)]) == 20
        assert [entry["event"] for entry in logs] == ["shared limits can be reached again"] * 2
        assert one.is_reachable


async def test_one_that_hangs_is_waited_for_once_and_not_by_everybody(redis_server: RedisServer) -> None:
    clock = Clock()
    store = RedisStore(redis_server.url, MemoryStore(), timeout_s=0.05, monotonic_s=clock)
    assert await take(store)
    redis_server.freeze()
    assert await take(store)
    calls = Counter[str]()
    run = store._run

    def counting(keys: object, args: object) -> object:
        calls["asked"] += 1
        return run(keys, args)  # type: ignore[arg-type]

    store._run = counting  # type: ignore[assignment]
    assert all([await take(store) for _ in range(10)])
    assert calls["asked"] == 0
    clock.now_s += 1
    assert all(await asyncio.gather(*(take(store) for _ in range(5))))
    assert calls["asked"] == 1
    redis_server.thaw()
    clock.now_s += 2
    assert await take(store)
    assert store.is_reachable
    await store.close()


async def test_what_was_counted_alone_is_put_right_where_it_was_counted(redis_server: RedisServer) -> None:
    clock = Clock()
    async with shared(redis_server, clock) as one, shared(redis_server, clock) as other:
        redis_server.kill()
        limiter = Limiter(shared=one)
        lease = await limiter.admit("key", KeyLimits(tokens_per_day=1000), 300)
        assert lease is not None
        redis_server.start()
        clock.now_s += 1
        assert await take(other, TOKENS, 400)
        await limiter.settle(lease, 10)
        (reading,) = await other.read("key", [TOKENS])
        assert reading.used == 400


async def load(client: Gateway, n: int) -> Counter[int]:
    return Counter([(await client.ask()).status for _ in range(n)])


async def test_gateways_under_load_lose_no_request_when_it_goes_and_comes_back(redis_server: RedisServer) -> None:
    clock, limits = Clock(), KeyLimits(requests_per_minute=40)
    async with (
        shared(redis_server, clock) as first,
        shared(redis_server, clock) as second,
        engine("--token-s", "0.002") as url,
        quick_gateway(url, Limiter(limits, shared=first)) as one,
        quick_gateway(url, Limiter(limits, shared=second)) as other,
    ):
        statuses = Counter[int]()
        for step, is_reachable in ((None, True), (redis_server.kill, False), (redis_server.start, True)):
            n_before = one.service.totals.n_requests
            working = [asyncio.create_task(load(client, 5)) for client in (one, other) for _ in range(3)]
            await one.until(lambda: one.service.totals.n_requests > n_before)  # noqa: B023
            if step is not None:
                step()
            clock.now_s += 60
            statuses += sum([await work for work in working], Counter())
            _, status = await one.get("/status")
            assert (status["limits"]["store"], status["limits"]["store_reachable"]) == ("redis", is_reachable)
        assert statuses == {200: 90}
        assert (await load(one, 15) + await load(other, 15))[429] > 0


@pytest.mark.parametrize("redis_flags", [("--requirepass", "s3cret")])
async def test_its_password_comes_from_elsewhere_and_is_in_no_log(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMITS_PASSWORD", "s3cret")
    (tmp_path / "password").write_text("s3cret\n")
    (tmp_path / "wrong").write_text("wr0ng")
    for more, is_reachable in (
        ({"store_password_env": "LIMITS_PASSWORD"}, True),
        ({"store_password_file": tmp_path / "password"}, True),
        ({"store_password_file": tmp_path / "wrong"}, False),
        ({}, False),
    ):
        settings = LimitsSettings.model_validate({"store": redis_server.url, "store_timeout_s": 2, **more})
        async with limiting(settings) as limiter:
            assert await limiter.admit("key", KeyLimits(requests_per_minute=1000), 1)
            assert limiter.is_store_reachable is is_reachable
    assert "wr0ng" not in "".join(capsys.readouterr())


async def test_a_password_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    for field, value in (("store_password_env", "NO_SUCH_VARIABLE"), ("store_password_file", tmp_path / "none")):
        settings = LimitsSettings.model_validate({"store": "redis://127.0.0.1", field: value})
        with pytest.raises(LimitsError, match=f"{field}: .*(not set|No such file)"):
            async with limiting(settings):
                pytest.fail("opened")


async def test_without_its_client_the_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf_server.limits.redis_store", None)
    with pytest.raises(LimitsError, match=r"pip install 'gguf-server\[redis\]'"):
        async with limiting(LimitsSettings(store="redis://127.0.0.1")):
            pytest.fail("opened")


async def test_a_key_of_the_file_shares_its_limit_between_gateways(redis_server: RedisServer) -> None:
    async with (
        shared(redis_server) as first,
        shared(redis_server) as second,
        engine() as url,
        quick_gateway(url, Limiter(shared=first)) as one,
        quick_gateway(url, Limiter(shared=second)) as other,
    ):
        _, token = keys.create(one.keys_file, "ward", KeyLimits(requests_per_minute=2))
        other.keys_file.write_bytes(one.keys_file.read_bytes())
        async with one.using(token) as here, other.using(token) as there:
            assert (await here.ask()).headers["x-ratelimit-remaining-requests"] == "1"
            assert (await there.ask()).headers["x-ratelimit-remaining-requests"] == "0"
            assert (await here.ask()).status == 429


async def test_what_a_client_was_sent_before_it_left_is_put_right_in_redis_too(redis_server: RedisServer) -> None:
    async with (
        shared(redis_server) as store,
        engine("--answer-words", "2000", "--token-s", "0.002") as url,
        quick_gateway(url, Limiter(KeyLimits(tokens_per_minute=100_000), shared=store)) as client,
    ):
        body = {"messages": [{"role": "user", "content": "Count"}], "stream": True, "max_tokens": 8000}
        async with client.session.post(f"{client.url}/v1/chat/completions", json=body) as response:
            for _ in range(20):
                await response.content.readline()
            assert int(response.headers["x-ratelimit-remaining-tokens"]) < 92_000
            response.close()
        await client.until(lambda: client.service.n_in_flight == 0)
        async with client.session.get(f"{client.url}/v1/models") as response:
            assert 98_000 < int(response.headers["x-ratelimit-remaining-tokens"]) < 99_995
