"""The helper commands: they take a path or nothing, no settings."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable
from typing import Annotated, Any

import typer

from halle_cli.next_steps import next_step

HELPERS = "Helpers"

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
_Path = Annotated[str, typer.Argument(metavar="PATH", help="Manifest, token store, run, checkpoint, model or "
                                      "evaluation folder, .pt export, speech, text tokenizer, or a folder of such.")]


def add_helpers(app: typer.Typer) -> None:
    """Register the helpers in their own group of the help."""
    for command in (pack, info, check, doctor):
        app.command(command.__name__, rich_help_panel=HELPERS)(command)


def _run(module: str, arguments: Callable[[Any], tuple[Any, ...]], json_output: bool, debug: bool,
         after: str | None = None) -> None:  # fmt: skip
    from halle_cli.console import Console, is_first_process

    if not is_first_process():  # a recipe whose stages run on many processes launches its helpers so too
        return

    def work() -> dict[str, Any]:
        stage = importlib.import_module(f"stages.{module}")
        return stage.run(*arguments(stage))

    Console(0, json_output, debug).run(work, after)


def pack(
    out: Annotated[str, typer.Option(help="Model folder to write; a codec folder without --ar and --nar. With --push "
                                     "alone, the one to push.")],
    codec: Annotated[str | None, typer.Option(help="Codec run or checkpoint.")] = None,
    ar: Annotated[str | None, typer.Option(help="AR run or checkpoint.")] = None,
    nar: Annotated[str | None, typer.Option(help="NAR run or checkpoint.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Round all parts to half precision; the codec has to be so "
                                       "before tokenize.")] = False,
    license_: Annotated[str | None, typer.Option("--license", help="Licence of the model, as its training data allows, "
                                                 "such as cc-by-4.0.")] = None,
    language: Annotated[str | None, typer.Option(help="Language that it speaks; by default en.")] = None,
    card: Annotated[str | None, typer.Option(help="Model card to put in; by default the folder's, else one is written "
                                             "from what is known.")] = None,
    sampling: Annotated[list[str] | None, typer.Option(help="How synth and eval sample the model when they are told "
                                                       "nothing else: temperature=0.5, and the like.")] = None,
    push: Annotated[str | None, typer.Option(help="Commit the model folder to the Hugging Face hub as org/name; it is "
                                             "made, open to all, when there is none.")] = None,
    json_output: _Json = False,
    debug: _Debug = False,
) -> None:
    """Assemble a model folder and push it, or ship a codec alone; parts that do not belong together are refused."""
    after = next_step("pack", {"out": push or out}) if ar or push else \
        f"halle tokenize --codec {shlex.quote(out)} --data MANIFEST_DIR --out STORE"
    _run("pack", lambda stage: (codec, ar, nar, out, half, stage.About(license_, language, card), push,
                                tuple(sampling or ())), json_output, debug, after)


def info(path: _Path, json_output: _Json = False, debug: _Debug = False) -> None:
    """Say what something is: its kind, what it was made from, its figures and sizes."""
    _run("info", lambda _: (path,), json_output, debug)


def check(path: _Path, json_output: _Json = False, debug: _Debug = False) -> None:
    """Verify something: fingerprints, ranges, offsets, sums, checksums; name every problem at once."""
    _run("check", lambda _: (path,), json_output, debug)


def doctor(
    device: Annotated[str | None, typer.Option(help="Compare what this device computes with the CPU: cuda, cuda:1, "
                                               "mps.")] = None,
    json_output: _Json = False,
    debug: _Debug = False,
) -> None:
    """Say what this machine has: versions, GPUs, optional parts, disk, and what each missing model would need."""
    _run("doctor", lambda _: (device,), json_output, debug)
