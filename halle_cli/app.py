"""The commands: options to settings to `stages.<module>.run`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import shlex
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

STAGES = "Stages, in data order"
HELPERS = "Helpers"
# Said when a stage is done, filled in with its settings.
NEXT_STEP = {
    "curate": "halle train-codec --data {out} --out RUN",
    "train-codec": "halle mreq --teacher {out} --data {data} --out RUN",
    "mreq": "halle tokenize --codec {out} --data {data} --out STORE",
    "tokenize": "halle train-ar --tokens {out} --out RUN, and halle train-nar --tokens {out} --codec {codec} --out RUN",
    "train-ar": "halle train-nar --tokens {tokens} --codec {codec} --out RUN, then halle pack",
    "train-nar": "halle pack --codec {codec} --ar RUN --nar {out} --out MODEL",
    "pack": "halle synth --text script.txt --prompt ref.wav --model {out}",
}
NEXT_STEP_OF_FINETUNING = {
    "tokenize": "halle train-ar --preset finetune --init {init} --tokens {out} --out RUN, and halle train-nar likewise",
    "train-ar": "halle train-nar --preset finetune --init {init} --tokens {tokens} --out RUN, then halle pack",
}

app = typer.Typer(
    name="halle",
    help="HALL-E: minute-long zero-shot text-to-speech from codec tokens at 8 Hz.\n\n"
         "Each stage reads files and writes files; run the same command again to continue what was interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"halle {metadata.version('halle')}")
        raise typer.Exit


@app.callback()
def halle(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True,
                                          callback=_say_version)] = False,
) -> None:
    """Options before the command (`--version` acts by itself)."""


UNDIVIDED = ("curate", "synth", "eval")  # under a launcher of many processes the first does all of these


def _option(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text)


_TOKENS = "Token store. Give several to mix them, each with a weight: STORE:0.5 hears half of it an epoch."
_INIT = "Start from this run or model folder, such as a VALL-E one."
_TRACKER = "Where curves go too: tensorboard, wandb or mlflow; by default none."


def common_options(
    preset: Annotated[str, _option("Size of everything: paper, single-gpu, mini or smoke; or finetune, with --init "
                                   "MODEL.")] = "mini",
    config: Annotated[str | None, _option("YAML file of settings (or of one section a stage).")] = None,
    override: Annotated[list[str] | None, _option("Change a setting (--dry-run lists all): dotted.key=value.",
                                                  "-O", "--override")] = None,
    seed: Annotated[int | None, _option("Everything random follows from it.")] = None,
    device: Annotated[str | None, _option("auto, cpu, cuda, cuda:1 or mps.")] = None,
    max_bad: Annotated[str | None, _option("Bad inputs allowed: a count, or a share such as 1%.")] = None,
    restart: Annotated[bool, _option("Move an old result aside and begin again.", "--restart")] = False,
    allow_change: Annotated[list[str] | None, _option("Identity setting that may differ from the old run's.")] = None,
    dry_run: Annotated[bool, _option("Check the inputs, show settings and plan, do nothing.", "--dry-run")] = False,
    json_output: Annotated[bool, _option("Print the result as JSON.", "--json")] = False,
    verbose: Annotated[bool, _option("Say more.", "-v", "--verbose")] = False,
    quiet: Annotated[bool, _option("Only results and errors.", "-q", "--quiet")] = False,
    debug: Annotated[bool, _option("Show the traceback of an error.", "--debug")] = False,
) -> None:
    """Options of every stage (a signature, never called)."""


def _stage(name: str, module: str) -> Callable:
    """Register a function that maps its options to dotted settings as the command of a stage."""

    def register(to_settings: Callable[..., dict[str, Any]]) -> Callable:
        @functools.wraps(to_settings)
        def command(**values: Any) -> None:
            common = {key: values.pop(key) for key in inspect.signature(common_options).parameters}
            _run_stage(name, module, to_settings(**values), common)

        own = inspect.signature(to_settings, eval_str=True)
        shared = inspect.signature(common_options, eval_str=True)
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                      for p in (*own.parameters.values(), *shared.parameters.values())]
        command.__signature__ = inspect.Signature(parameters)
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return app.command(name, rich_help_panel=STAGES)(command)

    return register


def _run_stage(name: str, module: str, settings: dict[str, Any], common: dict[str, Any]) -> None:
    from halle_cli.console import Console

    if name in UNDIVIDED and os.environ.get("RANK", "0") != "0":
        return
    verbosity = 1 if common["verbose"] else -1 if common["quiet"] else 0
    next_step = None if common["dry_run"] else _next_step(name, settings, common["preset"])

    def work() -> dict[str, Any]:
        from stages.config.resolve import resolve

        options = {**settings, "seed": common["seed"], "device": common["device"], "max_bad": common["max_bad"],
                   "restart": common["restart"] or None, "allow_change": common["allow_change"] or None}
        config = resolve(name, common["preset"], common["config"], tuple(common["override"] or ()), options)
        stage = importlib.import_module(f"stages.{module}")
        if common["dry_run"]:
            return {"plan": stage.plan(config), "settings": config.model_dump(mode="json", exclude=_replaced(config))}
        return stage.run(config)

    Console(verbosity, common["json_output"], common["debug"]).run(work, next_step)


def _replaced(config: Any) -> set[str]:
    """Return the settings that those of the model to start from replace: the plan has them."""
    return {"model", "window_seconds", "prompt_seconds"} if getattr(config, "keep_architecture", False) else set()


def _next_step(name: str, settings: dict[str, Any], preset: str = "mini") -> str:
    texts = NEXT_STEP
    if start := settings.get("like") or (preset == "finetune" and settings.get("init")):
        model = start if (Path(start) / "model.json").is_file() else None  # a run or a store
        texts = {**NEXT_STEP, **NEXT_STEP_OF_FINETUNING}
        settings = {**settings, "init": model or "MODEL", "codec": settings["codec"] or model}
    return texts.get(name, "").format(**{key: _as_typed(key, value) for key, value in settings.items()})


def _as_typed(key: str, value: Any) -> str:
    """Return what follows an option on the command line; of a repeated one, its further uses too."""
    if value is None:
        return key.upper()
    return f" --{key} ".join(shlex.quote(str(item)) for item in (value if isinstance(value, list) else [value]))


@_stage("curate", "curate")
def curate(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder of recordings, list, or Hugging Face dataset.")],
    out: Annotated[str, _option("Manifest folder to write.")],
    layout: Annotated[str | None, _option("How the source is laid out; by default it is recognised.")] = None,
    min_seconds: Annotated[float | None, _option("Shortest utterance.")] = None,
    max_seconds: Annotated[float | None, _option("Longest utterance.")] = None,
    join_seconds: Annotated[str | None, _option("MIN-MAX: join consecutive utterances of a speaker.")] = None,
    clips: Annotated[str | None, _option("flac writes clips, reference points to the originals.")] = None,
) -> dict[str, Any]:
    """Turn recordings with transcripts into a manifest of clean utterances."""
    return {"source": source, "out": out, "layout": layout, "min_seconds": min_seconds, "max_seconds": max_seconds,
            "join_seconds": _range(join_seconds, "--join-seconds"), "clips": clips}


@_stage("train-codec", "train_codec")
def train_codec(
    data: Annotated[str, _option("Manifest folder.")],
    out: Annotated[str, _option("Run folder to write.")],
    arch: Annotated[str | None, _option("Codec architecture: encodec, speechtokenizer or spectral.")] = None,
    steps: Annotated[int | None, _option("Number of steps.")] = None,
    tracker: Annotated[str | None, _option(_TRACKER)] = None,
) -> dict[str, Any]:
    """Train a 48 Hz residual-VQ codec."""
    return {"data": data, "out": out, "codec.arch": arch, "training.steps": steps,
            "training.tracker": tracker}


@_stage("mreq", "mreq")
def mreq(
    teacher: Annotated[str, _option("Codec to post-train: a run, a checkpoint, a .pt file, Meta's EnCodec (.th, folder "
                                    "or facebook/encodec_24khz), or package.module:make.")],
    data: Annotated[str, _option("Manifest folder.")],
    out: Annotated[str, _option("Run folder to write.")],
    rates: Annotated[str | None, _option("Frame rates in Hz, such as 8,16,48; by default 1/6, 1/3, 1/2 and all of the "
                                         "teacher's, as in Table 1.")] = None,
    alphas: Annotated[str | None, _option("Codebooks of the teacher for each rate, such as 1,2,5.")] = None,
    steps: Annotated[int | None, _option("Number of steps.")] = None,
    tracker: Annotated[str | None, _option(_TRACKER)] = None,
) -> dict[str, Any]:
    """Post-train a codec into an 8/16/24/48 Hz hierarchy."""
    return {"teacher": teacher, "data": data, "out": out, "rates": _numbers(rates, "--rates", float),
            "alphas": _numbers(alphas, "--alphas", int), "training.steps": steps,
            "training.tracker": tracker}


@_stage("tokenize", "tokenize_corpus")
def tokenize(
    data: Annotated[str, _option("Manifest folder.")],
    out: Annotated[str, _option("Token store to write.")],
    codec: Annotated[str | None, _option("Codec: a run, a checkpoint or a .pt file; by default that of the model "
                                         "after --like.")] = None,
    like: Annotated[str | None, _option("Model folder, AR or NAR run, or store whose text tokenizer to take and whose "
                                        "codec must be the same, so that training can start from it.")] = None,
    text_tokenizer: Annotated[str | None, _option("Take the text tokenizer of this file, store, run or model instead "
                                                  "of learning one.")] = None,
) -> dict[str, Any]:
    """Encode a manifest into a token store."""
    return {"codec": codec, "data": data, "out": out, "like": like, "text_tokenizer": text_tokenizer}


@_stage("train-ar", "train_ar")
def train_ar(
    tokens: Annotated[list[str], _option(_TOKENS)],
    out: Annotated[str, _option("Run folder to write.")],
    system: Annotated[str | None, _option("halle or valle; by default the store's own.")] = None,
    init: Annotated[str | None, _option(_INIT)] = None,
    codec: Annotated[str | None, _option("The codec that made the tokens: validations then speak a few texts.")] = None,
    nar: Annotated[str | None, _option("NAR run to speak with; without one the lowest stream alone is heard.")] = None,
    steps: Annotated[int | None, _option("Number of steps.")] = None,
    tracker: Annotated[str | None, _option(_TRACKER)] = None,
) -> dict[str, Any]:
    """Train the AR language model (six delayed streams at 8 Hz; VALL-E: one at 48 Hz)."""
    return {"tokens": _one_or_all(tokens), "out": out, "system": system, "init": init, "codec": codec, "nar": nar,
            "training.steps": steps, "training.tracker": tracker}


@_stage("train-nar", "train_nar")
def train_nar(
    tokens: Annotated[list[str], _option(_TOKENS)],
    out: Annotated[str, _option("Run folder to write.")],
    codec: Annotated[str | None, _option("The codec that made the tokens; by default, of --preset finetune, that of "
                                         "the model folder after --init.")] = None,
    system: Annotated[str | None, _option("halle or valle; by default the store's own.")] = None,
    init: Annotated[str | None, _option(_INIT)] = None,
    steps: Annotated[int | None, _option("Number of steps.")] = None,
    tracker: Annotated[str | None, _option(_TRACKER)] = None,
) -> dict[str, Any]:
    """Train the NAR language model (the other codebooks, at 48 Hz)."""
    return {"tokens": _one_or_all(tokens), "codec": codec, "out": out, "system": system, "init": init,
            "training.steps": steps, "training.tracker": tracker}


_MODEL = "Model folder; by default $HALLE_MODEL, then the model that ships with halle."


@_stage("synth", "synth")
def synth(
    prompt: Annotated[str | None, _option("Reference recording of the voice.")] = None,
    text: Annotated[str | None, _option("Text file to read, or - for standard input. Many: a folder of .txt, or .jsonl "
                                        "rows with id, text and, if need be, prompt.")] = None,
    say: Annotated[str | None, _option("Text to read, given literally.")] = None,
    prompt_text: Annotated[str | None, _option("What the reference says; else its .txt, else a recogniser.")] = None,
    out: Annotated[str | None, _option("Audio file to write; the suffix chooses wav, flac, ogg or mp3. A folder for "
                                       "many texts.")] = None,
    model: Annotated[str | None, _option(_MODEL)] = None,
    codec: Annotated[str | None, _option("Codec, in place of the model's.")] = None,
    ar: Annotated[str | None, _option("AR run, in place of the model's.")] = None,
    nar: Annotated[str | None, _option("NAR run, in place of the model's.")] = None,
    temperature: Annotated[float | None, _option("Sampling temperature of the AR; 0 is greedy.")] = None,
    top_k: Annotated[int | None, _option("Draw among the k likeliest codes; 0 for all.")] = None,
    top_p: Annotated[float | None, _option("Draw among the likeliest codes that hold this probability.")] = None,
    max_seconds: Annotated[float | None, _option("Longest speech to generate.")] = None,
    single_pass: Annotated[bool, _option("Never split a text; by default one longer than the AR was trained on is, at "
                                         "sentence ends.", "--single-pass")] = False,
    captions: Annotated[str | None, _option("Write subtitles beside the audio: srt, vtt or both.")] = None,
    verify: Annotated[bool, _option("Listen to what was spoken and speak again, from where it went wrong, what lacks "
                                    "words, repeats itself or falls silent.", "--verify")] = False,
    transcriber: Annotated[str | None, _option("Recogniser: pocketsphinx, package.module:function, or none.")] = None,
    batch_size: Annotated[int | None, _option("Of many texts, how many the AR speaks at once.")] = None,
    allow_unfinished: Annotated[bool, _option("Exit 0 even when the text is not finished.",
                                              "--allow-unfinished")] = False,
    explain_text: Annotated[bool, _option("Say how the text will be read, each change and why, and stop; needs no "
                                          "model.", "--explain-text")] = False,
    reading_passage: Annotated[bool, _option("Give 12 s of text to record as a prompt of your own (written to --out, "
                                             "if given), and stop.", "--reading-passage")] = False,
) -> dict[str, Any]:
    """Read a text aloud in the voice of a recording."""
    return {"prompt": prompt, "text": text, "say": say, "prompt_text": prompt_text, "out": out, "model": model,
            "codec": codec, "ar": ar, "nar": nar, "sampling.temperature": temperature, "sampling.top_k": top_k,
            "sampling.top_p": top_p, "max_seconds": max_seconds, "single_pass": single_pass or None,
            "captions": captions, "batch_size": batch_size, "verify": verify or None, "transcriber": transcriber,
            "allow_unfinished": allow_unfinished or None,
            "explain_text": explain_text or None, "reading_passage": reading_passage or None}


@_stage("eval", "evaluate")
def evaluate(
    set_: Annotated[str, _option("Test set: a name below --data-root, or a manifest folder.", "--set")],
    model: Annotated[str | None, _option(_MODEL)] = None,
    codec: Annotated[list[str] | None, _option("Codec, in place of the model's; several with --reconstruct.")] = None,
    ar: Annotated[str | None, _option("AR run, in place of the model's.")] = None,
    nar: Annotated[str | None, _option("NAR run, in place of the model's.")] = None,
    hypotheses: Annotated[str | None, _option("Score the audio in this folder; file stems are ids.")] = None,
    setting: Annotated[str | None, _option("cross-sentence, continuation or reconstruction.")] = None,
    reconstruct: Annotated[bool, _option("Encode and decode the recordings; the first codec is what the others are "
                                         "compared with.", "--reconstruct")] = False,
    out: Annotated[str | None, _option("Folder to write; by default eval/SET or eval/SET-reconstruction.")] = None,
    data_root: Annotated[str | None, _option("Where named test sets are; by default $HALLE_DATA, then data.")] = None,
    only: Annotated[list[str] | None, _option("COLUMN=VALUE or COLUMN=A,B: score these rows of the set only; of "
                                              "several, all must hold.")] = None,
    max_items: Annotated[int | None, _option("Score the first N utterances only.")] = None,
) -> dict[str, Any]:
    """Score a model, codecs, or anyone's audio, on a test set."""
    if reconstruct and setting not in (None, "reconstruction"):
        raise typer.BadParameter(f"expected no other setting beside --reconstruct, got `{setting}`",
                                 param_hint="--setting")
    first, *further = codec or [None]
    return {"set": set_, "model": model, "codec": first, "further_codecs": further or None, "ar": ar, "nar": nar,
            "hypotheses": hypotheses, "setting": "reconstruction" if reconstruct else setting, "out": out,
            "data_root": data_root, "only": only or None, "max_items": max_items}


@app.command("pack", rich_help_panel=HELPERS)
def pack(
    codec: Annotated[str, _option("Codec run or checkpoint.")],
    out: Annotated[str, _option("Model folder to write; a codec folder without --ar and --nar.")],
    ar: Annotated[str | None, _option("AR run or checkpoint.")] = None,
    nar: Annotated[str | None, _option("NAR run or checkpoint.")] = None,
    half: Annotated[bool, _option("Round the codec to half precision; do so before tokenize.", "--half")] = False,
    json_output: Annotated[bool, _option("Print the result as JSON.", "--json")] = False,
    debug: Annotated[bool, _option("Show the traceback of an error.", "--debug")] = False,
) -> None:
    """Assemble a model folder, or ship a codec alone; parts that do not belong together are refused."""
    from halle_cli.console import Console

    def work() -> dict[str, Any]:
        return importlib.import_module("stages.pack").run(codec, ar, nar, out, half)

    next_step = _next_step("pack", {"out": out}) if ar else f"halle tokenize --codec {shlex.quote(out)} --data " \
                                                            "MANIFEST_DIR --out STORE"
    Console(0, json_output, debug).run(work, next_step)


def _one_or_all(values: list[str]) -> str | list[str]:
    return values if len(values) > 1 else values[0]


def _numbers(text: str | None, option: str, kind: type) -> tuple | None:
    """Read numbers with commas between."""
    try:
        return None if text is None else tuple(kind(part) for part in text.split(","))
    except ValueError:
        example = "8,16,24,48" if kind is float else "1,2,2,3"
        raise typer.BadParameter(f"expected numbers such as {example}, got `{text}`", param_hint=option) from None


def _range(text: str | None, option: str) -> tuple[float, float] | None:
    """Read MIN-MAX."""
    if text is None:
        return None
    low, dash, high = text.partition("-")
    try:
        if not dash or not 0 <= float(low) < float(high):
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"expected MIN-MAX such as 8-20, got `{text}`", param_hint=option) from None
    return float(low), float(high)
