"""The command line: reads what was asked and calls the part that does it.

Exit status: 0, or 1 where the key file or a model is at fault, or 2 where the configuration or the command line is, or
3 where a model does not fit.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import tomli_w
import typer

from gguf_server.commands import books_cli
from gguf_server.commands.admin_cli import admin_app
from gguf_server.commands.keys_cli import keys_app
from gguf_server.commands.settings_options import ConfigOption, JsonOption
from gguf_server.commands.settings_options import load as _load
from gguf_server.logging_config import set_up_logging
from gguf_server.settings import Settings

app = typer.Typer(
    help="An OpenAI-compatible gateway in front of vLLM and llama.cpp.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(config_app, name="config")
app.add_typer(admin_app, name="admin")
app.command("usage")(books_cli.usage)
app.add_typer(books_cli.audit_app, name="audit")

PresetOption = Annotated[
    list[str] | None, typer.Option("--preset", metavar="NAME", help="Serve this preset; may be repeated.")
]
HostOption = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
PortOption = Annotated[int | None, typer.Option("--port", help="Port of the shared listener.")]
_WEIGHTS_HELP = "A preset, hf:REPO/FILE, hf:REPO:QUANT or hf:REPO; a REPO's may end with @REVISION."
WeightsArgument = Annotated[list[str], typer.Argument(metavar="WHAT...", help=_WEIGHTS_HELP)]
AnyWeightsArgument = Annotated[list[str] | None, typer.Argument(metavar="[WHAT...]", help=_WEIGHTS_HELP)]


class Format(StrEnum):
    TOML = "toml"
    JSON = "json"


class EngineKind(StrEnum):
    LLAMACPP = "llamacpp"
    VLLM = "vllm"


def main() -> None:
    app()


@app.command()
def serve(
    config: ConfigOption = None,
    preset: PresetOption = None,
    host: HostOption = None,
    port: PortOption = None,
) -> None:
    """Run the server until it is told to stop."""
    settings = _load(config, preset, host=host, port=port)
    set_up_logging(settings.server)
    from gguf_server import run  # the other commands start faster without it
    from gguf_server.reload.source import Source

    raise typer.Exit(run.serve(settings, Source(config, tuple(preset or ()), host, port)))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def bench(context: typer.Context) -> None:
    """Measure servers by HTTP, and report, compare and judge what was measured."""
    from bench import command

    raise typer.Exit(command.main(context.args))


@config_app.command("check")
def check_config(config: ConfigOption = None, preset: PresetOption = None) -> None:
    """Say whether the configuration can be used."""
    settings = _load(config, preset)
    from gguf_server.commands.tls_check import check_tls

    if check_tls(settings.tls):
        raise typer.Exit(2)
    names = ", ".join(settings.services)
    typer.echo(f"ok: {names} on {settings.server.host}:{settings.server.port}")


@config_app.command("show")
def show_config(
    config: ConfigOption = None,
    preset: PresetOption = None,
    output: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.TOML,
) -> None:
    """Print the effective settings: presets, file and environment together."""
    settings = _load(config, preset)
    if output is Format.JSON:
        typer.echo(settings.model_dump_json(indent=2))
    else:
        typer.echo(tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)), nl=False)


@config_app.command("schema")
def show_schema() -> None:
    """Print the JSON schema of a configuration file."""
    typer.echo(json.dumps(Settings.model_json_schema(), indent=2))


@app.command("pull")
def pull_weights(
    what: AnyWeightsArgument = None,
    config: ConfigOption = None,
    preset: PresetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and fetch nothing.")] = False,
) -> None:
    """Fetch weights from the hub into its cache, and check them; without WHAT all that `serve` would need."""
    from gguf_server.commands import pull

    if what and config:
        raise typer.BadParameter("give WHAT or --config, not both")
    if what:
        raise typer.Exit(pull.pull_named([*what, *(preset or ())], dry_run=dry_run))
    raise typer.Exit(pull.pull_configured(_load(config, preset), dry_run=dry_run))


@app.command("list")
def list_weights(as_json: JsonOption = False) -> None:
    """Show the weights in the hub's cache, with what is known about them."""
    from gguf_server.commands import cached_weights

    raise typer.Exit(cached_weights.list_cached(json_wanted=as_json))


@app.command("verify")
def verify_weights(what: AnyWeightsArgument = None) -> None:
    """Compare the checksums of weights in the hub's cache; without WHAT all of them."""
    from gguf_server.commands import cached_weights

    raise typer.Exit(cached_weights.verify(what or ()))


@app.command("rm")
def remove_weights(
    what: WeightsArgument,
    without_asking: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove weights from the hub's cache."""
    from gguf_server.commands import cached_weights

    raise typer.Exit(cached_weights.remove(what, without_asking=without_asking))


@app.command("inspect")
def inspect_model(
    ref: Annotated[str, typer.Argument(metavar="REF", help="Path, hf:REPO/FILE or pkg:NAME of a GGUF.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what a GGUF is: its architecture, size, layers, context, tokenizer and chat template."""
    from gguf_server.commands.inspect import inspect

    raise typer.Exit(inspect(ref, json_wanted=as_json))


@app.command("plan")
def plan_load(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Path, hf:REPO/FILE or pkg:NAME of a GGUF.")],
    gpu: Annotated[str, typer.Option("--gpu", metavar="KEY", help="A card's key, auto or cpu.")] = "auto",
    engine: Annotated[EngineKind, typer.Option("--engine", help="Whose rules hold.")] = EngineKind.LLAMACPP,
    n_ctx: Annotated[int | None, typer.Option("--n-ctx", min=1, help="Most tokens of one request.")] = None,
    n_seqs: Annotated[int, typer.Option("--n-seqs", min=1, help="Requests computed at once.")] = 4,
    n_ctx_total: Annotated[int | None, typer.Option("--n-ctx-total", min=1, help="Cells that all share.")] = None,
    kv_type: Annotated[str | None, typer.Option("--kv-type", help="f16, q8_0, q4_0, …; for vLLM fp8.")] = None,
    n_gpu_layers: Annotated[int, typer.Option("--n-gpu-layers", help="-1: all.")] = -1,
    mmproj: Annotated[str | None, typer.Option("--mmproj", metavar="REF", help="Image encoder beside it.")] = None,
    utilization: Annotated[
        float, typer.Option("--gpu-memory-utilization", min=0.01, max=1.0, help="vLLM's share of the card.")
    ] = 0.92,
    quantization: Annotated[str | None, typer.Option("--quantization", help="As in `vllm serve`.")] = None,
    eager: Annotated[bool, typer.Option("--enforce-eager", help="vLLM without CUDA graphs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what a model takes of a card's memory, what to change if it does not fit, and how fast it will be."""
    from gguf_server.commands.plan import PlanRequest, plan

    request = PlanRequest(
        ref=model, gpu=gpu, on_vllm=engine is EngineKind.VLLM, n_ctx=n_ctx, n_seqs=n_seqs, n_ctx_total=n_ctx_total,
        kv_type=kv_type, n_gpu_layers=n_gpu_layers, mmproj=mmproj, gpu_memory_utilization=utilization,
        quantization=quantization, enforce_eager=eager,
    )  # fmt: skip
    raise typer.Exit(plan(request, json_wanted=as_json))


@app.command("doctor")
def examine_machine(
    config: ConfigOption = None,
    preset: PresetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what is right and wrong with this machine and the configuration, and how to mend it."""
    from gguf_server.commands.doctor import doctor

    raise typer.Exit(doctor(config, preset or (), json_wanted=as_json))
