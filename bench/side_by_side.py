"""Several servers under the same load in one interleaved run: A B C A B C … at every number of streams.

    python -m bench.side_by_side --target NAME=URL[,model=..][,key=..][,eos=ignore_eos|bias:ID+ID] ... --out FILE.json

Machines drift by more than the differences one looks for, so figures are compared within a repetition: a ratio is
the median, over the repetitions, of a target's figure to the first target's figure of the same repetition.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import aiohttp
import orjson

from bench.measuring.load import Target, Workload, first_model, run_load
from bench.measuring.result import LoadResult, summarise
from bench.measuring.steps import decode_share, read_steps

CAVEAT = (
    "Only ratios from one interleaved run mean anything: the absolute figures drift with the machine. "
    "A ratio is the median over repetitions, to the first target in the same repetition."
)
HEADINGS = (
    "streams", "target", "tok/s (min–max)", "ratio", "TTFT p50 s", "ratio", "TTFT p95 s",
    "gap p50 ms", "gap p95 ms", "prompt tok (cached)", "requests/s", "in llama_decode", "errors",
)  # fmt: skip

Cell = tuple[int, str]
Results = Mapping[Cell, Sequence[LoadResult]]
"""By number of streams and target's name; one result a repetition."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`workload` is that of one stream; its number of streams and its seed are set for each run."""

    targets: tuple[Target, ...]
    streams: tuple[int, ...]
    repeat: int
    workload: Workload


async def compare(plan: Plan) -> Results:
    """Raises `RuntimeError` if a target fails its warm-up. Targets get the same prompts, each prompt once."""
    for target in plan.targets:
        await warm_up(target, plan.workload)
    results: dict[Cell, list[LoadResult]] = {}
    for streams in plan.streams:
        for turn in range(plan.repeat):
            seed = f"{plan.workload.seed}/{streams}/{turn}"
            workload = replace(plan.workload, streams=streams, seed=seed)
            for target in plan.targets:
                result = await measure(target, workload)
                results.setdefault((streams, target.name), []).append(result)
                _progress(target, streams, turn, result)
    return results


async def measure(target: Target, workload: Workload) -> LoadResult:
    """One run, with what the target says of its own steps."""
    before = await read_steps(target)
    requests = await run_load(target, workload)
    return replace(summarise(requests, workload), decode_share=decode_share(before, await read_steps(target)))


async def warm_up(target: Target, workload: Workload) -> None:
    """Raises `RuntimeError` if the target does not answer."""
    workload = replace(workload, streams=1, requests_per_stream=1, max_tokens=8, seed=f"{workload.seed}/warm-up")
    for request in await run_load(target, workload):
        if request.error is not None:
            raise RuntimeError(f"{target.name} failed its warm-up: {request.error}")


def _progress(target: Target, streams: int, turn: int, result: LoadResult) -> None:
    errors = f", {len(result.errors)} errors, first: {result.errors[0]}" if result.errors else ""
    print(
        f"{streams} streams, repetition {turn + 1}, {target.name}: {result.tokens_per_s:.1f} tok/s, "
        f"TTFT {result.ttft_p50_s:.2f} s{errors}",
        file=sys.stderr,
        flush=True,
    )


def table(results: Results) -> str:
    lines = [" | ".join(HEADINGS), " | ".join("---" for _ in HEADINGS)]
    base: Sequence[LoadResult] = ()
    streams_before = None
    for (streams, name), runs in results.items():
        if streams != streams_before:
            base, streams_before = runs, streams
        lines.append(" | ".join(_row(streams, name, runs, base)))
    return "\n".join(f"| {line} |" for line in lines)


def _row(streams: int, name: str, runs: Sequence[LoadResult], base: Sequence[LoadResult]) -> list[str]:
    speeds = [run.tokens_per_s for run in runs]
    prompt_tokens, cached_tokens = (sum(run.prompt_tokens for run in runs), sum(run.cached_tokens for run in runs))
    return [
        str(streams),
        name,
        f"{median(speeds):.1f} ({min(speeds):.1f}–{max(speeds):.1f})",
        _ratio(speeds, [run.tokens_per_s for run in base]),
        f"{median(run.ttft_p50_s for run in runs):.2f}",
        _ratio([run.ttft_p50_s for run in runs], [run.ttft_p50_s for run in base]),
        f"{median(run.ttft_p95_s for run in runs):.2f}",
        f"{median(run.gap_p50_s for run in runs) * 1000:.1f}",
        f"{median(run.gap_p95_s for run in runs) * 1000:.1f}",
        f"{prompt_tokens} ({cached_tokens})" if prompt_tokens else "not told",
        f"{median(run.requests_per_s for run in runs):.2f}",
        _decode_share(runs),
        str(sum(len(run.errors) for run in runs)),
    ]


def _ratio(values: Sequence[float], base: Sequence[float]) -> str:
    ratios = [value / first for value, first in zip(values, base, strict=True) if first > 0]
    return f"{median(ratios):.2f}" if ratios else "–"


def _decode_share(runs: Sequence[LoadResult]) -> str:
    shares = [run.decode_share for run in runs if run.decode_share is not None]
    return f"{median(shares):.3f}" if shares else "–"


def report(plan: Plan, results: Results) -> dict[str, object]:
    """For `--out`: every run's figures and how they were taken, without keys."""
    runs = [
        {"streams": streams, "target": name, "repetition": turn, **asdict(run), "requests_per_s": run.requests_per_s}
        for (streams, name), of_cell in results.items()
        for turn, run in enumerate(of_cell)
    ]
    targets = [
        {"name": t.name, "url": t.url, "model": t.model, "extra_fields": dict(t.extra_fields)} for t in plan.targets
    ]
    return {"caveat": CAVEAT, "targets": targets, "workload": asdict(plan.workload), "runs": runs}


def parse_target(text: str) -> Target:
    """`NAME=URL[,model=..][,key=..][,eos=..]`. An empty model stands for the first that the server lists.

    `eos=bias:0+2` is for servers without `ignore_eos`: they end at any end-of-generation token, so name them all.
    """
    address, *options = text.split(",")
    name, _, url = address.partition("=")
    given = {key: value for key, _, value in (option.partition("=") for option in options)}
    if not name or not url.startswith(("http://", "https://", "unix:")) or given.keys() - {"model", "key", "eos"}:
        raise argparse.ArgumentTypeError(f"not NAME=URL[,model=..][,key=..][,eos=..]: {text}")
    return Target(name, url, given.get("model", ""), given.get("key"), _eos_fields(given.get("eos", "ignore_eos")))


def _eos_fields(eos: str) -> dict[str, object]:
    if eos == "ignore_eos":
        return {"ignore_eos": True}
    kind, _, ids = eos.partition(":")
    if kind != "bias" or not all(token.isdigit() for token in ids.split("+")):
        raise argparse.ArgumentTypeError(f"eos is ignore_eos or bias:ID+ID, not {eos}")
    return {"logit_bias": dict.fromkeys(ids.split("+"), -100)}


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[Plan, Path | None]:
    parser = argparse.ArgumentParser(prog="python -m bench.side_by_side", description=CAVEAT)
    parser.add_argument("--target", type=parse_target, action="append", required=True, metavar="NAME=URL[,..]")
    parser.add_argument("--streams", default="1,4,8,16", help="numbers of concurrent streams")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2, help="of each stream in one run")
    parser.add_argument("--max-tokens", type=int, default=128, help="output tokens of each request, exactly")
    parser.add_argument("--prompt-tokens", type=int, default=119, help="about")
    parser.add_argument("--shared-tokens", type=int, default=0, help="length of a system prompt all share")
    parser.add_argument("--chat", action="store_true", help="/v1/chat/completions, not /v1/completions")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="of one request")
    parser.add_argument(
        "--seed",
        default=str(int(time.time())),
        help="of the prompts; new each time, since a server that saw a seed may have cached its prefixes",
    )
    parser.add_argument("--out", type=Path, help="JSON file with every run's figures")
    given = parser.parse_args(argv)
    if len({target.name for target in given.target}) < len(given.target):
        parser.error("two targets have the same name")
    workload = Workload(
        streams=1,
        requests_per_stream=given.requests,
        max_tokens=given.max_tokens,
        n_prompt=given.prompt_tokens,
        n_shared=given.shared_tokens,
        chat=given.chat,
        seed=given.seed,
        timeout_s=given.timeout_s,
    )
    streams = tuple(int(number) for number in given.streams.split(","))
    return Plan(tuple(given.target), streams, given.repeat, workload), given.out


async def _name_models(plan: Plan) -> Plan:
    targets = [target if target.model else replace(target, model=await first_model(target)) for target in plan.targets]
    return replace(plan, targets=tuple(targets))


def main() -> int:
    plan, out = parse_arguments()
    try:
        plan = asyncio.run(_name_models(plan))
        results = asyncio.run(compare(plan))
    except (RuntimeError, aiohttp.ClientError, TimeoutError) as exc:
        print(f"bench.side_by_side: {exc}", file=sys.stderr)
        return 1
    if out is not None:
        out.write_bytes(orjson.dumps(report(plan, results), option=orjson.OPT_INDENT_2))
    print(f"{table(results)}\n\n{CAVEAT}")
    return 1 if any(run.errors for runs in results.values() for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
