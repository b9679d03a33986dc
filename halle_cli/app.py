"""The commands: options to settings to `stages.<module>.run`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from importlib import metadata
from typing import Annotated, Any

import typer

from halle_cli.helpers import add_helpers
from halle_cli.next_steps import next_step
from halle_cli.values import numbers, one_or_all, seconds_range

STAGES = "Stages, in data order"

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


def _option(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text)


_TOKENS = "Token store. Give several to mix them, each with a weight: STORE:0.5 hears half of it an epoch."
_INIT = "Start from this run, model folder or org/name of the Hugging Face hub, such as a VALL-E one."
_PROBE = "Try the largest batch, time a few real steps, keep nothing."
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
    from halle_cli.console import Console, is_first_process

    probe = settings.pop("probe", False)
    planned = common["dry_run"] or probe
    common = {**common, "dry_run": common["dry_run"] and not probe}  # all processes of a run take part in a probe

    if common["dry_run"] and not is_first_process():
        return
    verbosity = 1 if common["verbose"] else -1 if common["quiet"] else 0
    unfinished = "write" not in (settings.get("steps") or ["write"])  # `halle curate --steps` of which it is the last
    after = None if planned or unfinished else next_step(name, settings, common["preset"])

    def work() -> dict[str, Any]:
        from stages.config.resolve import resolve

        options = {**settings, "seed": common["seed"], "device": common["device"], "max_bad": common["max_bad"],
                   "restart": common["restart"] or None, "allow_change": common["allow_change"] or None}
        config = resolve(name, common["preset"], common["config"], tuple(common["override"] or ()), options)
        stage = importlib.import_module(f"stages.{module}")
        if planned:
            told = stage.plan(config, probe=True) if probe else stage.plan(config)
            return {"plan": told, "settings": config.model_dump(mode="json", exclude=_replaced(config))}
        return stage.run(config)

    Console(verbosity, common["json_output"], common["debug"]).run(work, after)


def _replaced(config: Any) -> set[str]:
    """Return the settings that those of the model to start from replace: the plan has them."""
    return {"model", "window_seconds", "prompt_seconds"} if getattr(config, "keep_architecture", False) else set()


@_stage("curate", "curate")
def curate(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder of recordings, list, or Hugging Face dataset.")],
    out: Annotated[str, _option("Manifest folder to write.")],
    layout: Annotated[str | None, _option("How the source is laid out; by default it is recognised.")] = None,
    min_seconds: Annotated[float | None, _option("Shortest utterance.")] = None,
    max_seconds: Annotated[float | None, _option("Longest utterance.")] = None,
    min_rate: Annotated[int | None, _option("Lowest sample rate in Hz; 8000 lets telephones in.")] = None,
    license: Annotated[str | None, _option("Licence of recordings that name none, kept in the manifest.")] = None,
    join_seconds: Annotated[str | None, _option("MIN-MAX: join consecutive utterances of a speaker.")] = None,
    clips: Annotated[str | None, _option("flac writes one file a clip, shards one an hour (auto: for many clips), "
                                         "reference points to the originals.")] = None,
    steps: Annotated[str | None, _option("Of recordings without transcripts, do only these: check,gate,"
                                         "fingerprint,vad,diarize,transcribe,cut,write.")] = None,
    quality_gate: Annotated[str | None, _option("Of recordings without transcripts, keep what sounds good to "
                                                "squim-pesq, the paper's, or dnsmos; none keeps all.")] = None,
    diarizer: Annotated[str | None, _option("Who tells speakers apart in recordings without transcripts: resemblyzer, "
                                            "a pipeline of pyannote.audio (folder or name), or none.")] = None,
    transcriber: Annotated[str | None, _option("Who writes down recordings without transcripts: pocketsphinx, "
                                               "faster-whisper:MODEL, a model of transformers, or none.")] = None,
    language: Annotated[str | None, _option("Language of recordings without transcripts, such as en.")] = None,
    check_language: Annotated[bool | None, _option("Leave out what is said in another language.",
                                                  "--check-language")] = None,
    duration_histogram: Annotated[str | None, _option("Keep utterances such that their durations are distributed like "
                                                      "train-28s, -54s, -90s or -180s of Table 2, or as a JSON file "
                                                      "says.")] = None,
    sets: Annotated[str | None, _option("Further sets of the same speech, cut to at most so many seconds, such as "
                                        "28,54,90.")] = None,
    squim_weights: Annotated[str | None, _option("File of squim-pesq's weights; by default where torchaudio keeps "
                                                 "it.")] = None,
) -> dict[str, Any]:
    """Turn recordings, with or without transcripts, into a manifest of clean single-speaker utterances."""
    return {"source": source, "out": out, "layout": layout, "min_seconds": min_seconds, "max_seconds": max_seconds,
            "min_rate": min_rate, "license": license, "join_seconds": seconds_range(join_seconds, "--join-seconds"),
            "clips": clips, "steps": steps and steps.replace(" ", "").split(","), "gate.estimator": quality_gate,
            "gate.weights": squim_weights, "diarizer": diarizer, "transcriber": transcriber, "language": language,
            "check_language": check_language, "duration_histogram": duration_histogram,
            "sets": numbers(sets, "--sets", float)}


@_stage("train-codec", "train_codec")
def train_codec(
    data: Annotated[str, _option("Manifest folder.")],
    out: Annotated[str, _option("Run folder to write.")],
    arch: Annotated[str | None, _option("Codec architecture: encodec, speechtokenizer or spectral.")] = None,
    init: Annotated[str | None, _option("Start from the encoder and decoder of this codec, plain or "
                                        "multi-resolution; codebooks are new.")] = None,
    steps: Annotated[int | None, _option("Number of steps.")] = None,
    tracker: Annotated[str | None, _option(_TRACKER)] = None,
    probe: Annotated[bool, _option(_PROBE, "--probe")] = False,
) -> dict[str, Any]:
    """Train a 48 Hz residual-VQ codec."""
    return {"data": data, "out": out, "codec.arch": arch, "init": init, "training.steps": steps,
            "training.tracker": tracker, "probe": probe}


@_stage("mreq", "mreq")
def mreq(
    data: Annotated[str, _option("Manifest folder.")],
    out: Annotated[str, _option("Run folder to write.")],
    teacher: Annotated[str | None, _option("Codec to post-train: a run, a checkpoint, a .pt file, Meta's EnCodec (.th, "
                                           "folder or facebook/encodec_24khz), or package.module:make.")] = None,
    init: Annotated[str | None, _option("Multi-resolution codec to go on from instead, with or without a teacher.")
                    ] = None,
    rates: Annotated[str | None, _option("Frame rates in Hz, such as 8,16,48; by default 1/6, 1/3, 1/2 and all of the "
                                         "teacher's, as in Table 1.")] = None,
    alphas: Annotated[str | None, _option("Codebooks of the teacher for each rate, such as 1,2,5.")] = None,
    steps: Annotated[int | None, _option("Number of steps.")] = None,
    tracker: Annotated[str | None, _option(_TRACKER)] = None,
    probe: Annotated[bool, _option(_PROBE, "--probe")] = False,
) -> dict[str, Any]:
    """Post-train a codec into an 8/16/24/48 Hz hierarchy."""
    return {"teacher": teacher, "init": init, "data": data, "out": out, "rates": numbers(rates, "--rates", float),
            "alphas": numbers(alphas, "--alphas", int), "training.steps": steps,
            "training.tracker": tracker, "probe": probe}


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
    probe: Annotated[bool, _option(_PROBE, "--probe")] = False,
) -> dict[str, Any]:
    """Train the AR language model (six delayed streams at 8 Hz; VALL-E: one at 48 Hz)."""
    return {"tokens": one_or_all(tokens), "out": out, "system": system, "init": init, "codec": codec, "nar": nar,
            "training.steps": steps, "training.tracker": tracker, "probe": probe}


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
    probe: Annotated[bool, _option(_PROBE, "--probe")] = False,
) -> dict[str, Any]:
    """Train the NAR language model (the other codebooks, at 48 Hz)."""
    return {"tokens": one_or_all(tokens), "codec": codec, "out": out, "system": system, "init": init,
            "training.steps": steps, "training.tracker": tracker, "probe": probe}


_MODEL = "Model folder, or org/name of the Hugging Face hub; by default $HALLE_MODEL, then the model that ships with " \
         "halle."


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
    transcriber: Annotated[str | None, _option("Recogniser: pocketsphinx, a model of transformers (folder "
                                               "or name), package.module:function, or none.")] = None,
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
    set_: Annotated[str | None, _option("Test set: a name, a manifest or audio folder, a list `id<TAB>text`, or "
                                        "Seed-TTS's meta.lst; none with --hypotheses scores what is there.",
                                        "--set")] = None,
    model: Annotated[str | None, _option(_MODEL)] = None,
    codec: Annotated[list[str] | None, _option("Codec, in place of the model's; several with --reconstruct.")] = None,
    ar: Annotated[str | None, _option("AR run, in place of the model's.")] = None,
    nar: Annotated[str | None, _option("NAR run, in place of the model's.")] = None,
    hypotheses: Annotated[list[str] | None, _option("Score the audio in this folder; file stems are ids. Give several, "
                                                    "beside a model or without one, to compare them.")] = None,
    name: Annotated[list[str] | None, _option("What to call the --hypotheses, one for each; by default the "
                                              "folder.")] = None,
    protocol: Annotated[str | None, _option("Score as a paper does, halle or valle: recogniser, speaker model, lengths "
                                            "and setting are then its.")] = None,
    recording_seconds: Annotated[str | None, _option("Score only rows with a recording of MIN-MAX seconds.")] = None,
    with_prompt: Annotated[bool, _option("In the setting continuation the --hypotheses begin with the prompt: it is "
                                         "not in what similarity hears.", "--with-prompt")] = False,
    seeds: Annotated[int | None, _option("Let a model say each text N times, each with another seed.")] = None,
    prompt_lengths: Annotated[str | None, _option("Let a model go on after the first 3, 10 and 20 seconds of each "
                                                  "recording, such as 3,10,20, and compare.")] = None,
    metrics: Annotated[list[str] | None, _option("Measure this, such as wer or package.module:Class; by default all "
                                                 "that can be.", "--metric")] = None,
    transcriber: Annotated[str | None, _option("Recogniser that listens: a model of transformers (folder or name), "
                                               "package.module:function, or pocketsphinx, the default, which only "
                                               "ranks.")] = None,
    transcripts: Annotated[list[str] | None, _option("What another recogniser heard, JSON lines; none is run.")] = None,
    language: Annotated[str | None, _option("Language of the texts, such as de; by default en. Where words have no "
                                            "spaces (zh, ja, th), characters are counted.")] = None,
    listening_test: Annotated[bool, _option("Write a page too on which people rate all systems, blind.",
                                            "--listening-test")] = False,
    listening_answers: Annotated[list[str] | None, _option("What a listener exported from that page, or a folder of "
                                                           "such files: QMOS and SMOS.")] = None,
    setting: Annotated[str | None, _option("cross-sentence, continuation or reconstruction.")] = None,
    reconstruct: Annotated[bool, _option("Encode and decode the recordings; the first codec is what the others are "
                                         "compared with.", "--reconstruct")] = False,
    out: Annotated[str | None, _option("Folder to write; by default eval/SET or eval/SET-reconstruction.")] = None,
    data_root: Annotated[str | None, _option("Where named test sets are; by default $HALLE_DATA, then data.")] = None,
    only: Annotated[list[str] | None, _option("COLUMN=VALUE or COLUMN=A,B: score these rows of the set only; of "
                                              "several, all must hold.")] = None,
    max_items: Annotated[int | None, _option("Score the first N utterances only.")] = None,
    text_limits: Annotated[str | None, _option("Leave out texts longer or shorter than in training: curate, a "
                                               "training manifest, or none.")] = None,
    export_tasks: Annotated[str | None, _option("Write prompts and texts to this folder for another system, and score "
                                                "nothing.")] = None,
) -> dict[str, Any]:
    """Score a model, codecs, or anyone's audio, on a test set."""
    if reconstruct and setting not in (None, "reconstruction"):
        raise typer.BadParameter(f"expected no other setting beside --reconstruct, got `{setting}`",
                                 param_hint="--setting")
    first, *further = codec or [None]
    return {"set": set_, "model": model, "codec": first, "further_codecs": further or None, "ar": ar, "nar": nar,
            "hypotheses": hypotheses or None, "names": name or None, "seeds": seeds, "with_prompt": with_prompt or None,
            "metrics": metrics or None, "transcriber": transcriber, "transcripts": transcripts or None,
            "language": language, "protocol": protocol,
            "recording_seconds": seconds_range(recording_seconds, "--recording-seconds"),
            "listening_test": listening_test or None, "listening_answers": listening_answers or None,
            "setting": "reconstruction" if reconstruct else setting or ("continuation" if prompt_lengths else None),
            "prompt_lengths": numbers(prompt_lengths, "--prompt-lengths", float), "out": out,
            "data_root": data_root, "only": only or None, "max_items": max_items, "text_limits": text_limits,
            "export_tasks": export_tasks}


add_helpers(app)
