"""What a model folder says to people: its card, from what its files say, and its licence, as the hub wants them.

What people wrote themselves is kept: `model.json` has the hashes of the texts that `halle pack` wrote.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml

from stages.artifacts.model_folder import CARD_FILES, LICENSE_FILE, MODEL_FILE, PARTS, TEXTS
from stages.artifacts.storage import decode_utf8, read_json, storage_errors, write_bytes
from stages.artifacts.tensors import CONFIG_FILE
from stages.audio.io import SYNTHETIC
from stages.config.sampling import setting_text
from stages.errors import UsageError

UNKNOWN = "unknown"
SYSTEMS = {"halle": "HALL-E", "valle": "VALL-E"}
# identifiers of the hub for licences that speech comes under; any other is `other` there, with its name beside it
_KNOWN_TO_THE_HUB = set(
    "apache-2.0 mit bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 "
    "cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-nc-nd-4.0 openrail "
    "gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 odc-by odbl pddl cdla-permissive-2.0 unlicense unknown other".split())
_CREATIVE_COMMONS = re.compile(r"cc(0|-by(?:-nc)?(?:-nd|-sa)?)-(\d\.\d)")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)(.*)", re.DOTALL)

_USE = f"""## Responsible use

- Clone a voice only with the consent of the person it belongs to.
- Do not present what this model says as a recording of that person, and say that it is synthetic where it is heard.
- `halle` says so too: in the metadata of every audio file that it speaks stands "{SYNTHETIC}", and `"synthetic": true`
  in the report beside it.
"""


@dataclass(frozen=True)
class About:
    """What people are told of a model and its parts do not know: its licence, its language, and a card (a file)."""

    license: str | None = None
    language: str | None = None
    card: str | None = None


def given_texts(folder: Path, about: About) -> dict[str, bytes]:
    """Return card and licence that people wrote: the card that is given, and what is in the folder not by `halle pack`.
    """
    ours = read_json(folder / MODEL_FILE).get("written", {}) if (folder / MODEL_FILE).is_file() else {}
    with storage_errors(folder, "read"):
        texts = {name: (folder / name).read_bytes() for name in TEXTS if (folder / name).is_file()}
    texts = {name: text for name, text in texts.items() if hashlib.sha256(text).hexdigest() != ours.get(name)}
    if about.card:
        with storage_errors(Path(about.card), "read"):
            texts[CARD_FILES[0]] = Path(about.card).read_bytes()
    return texts


def card_in(texts: dict[str, bytes]) -> str | None:
    """Return the card among such texts, if there is one."""
    name = next((name for name in CARD_FILES if name in texts), None)
    return decode_utf8(texts[name], name) if name else None


def write_texts(folder: Path, title: str, given: dict[str, bytes], licence: str | None) -> dict[str, str]:
    """Write the texts that are given and those that lack; return the hashes of the latter."""
    lacking = {}
    if card_in(given) is None:
        lacking[CARD_FILES[0]] = model_card(folder, title, title).encode()
    if LICENSE_FILE not in given and (text := license_text(licence or UNKNOWN)):
        lacking[LICENSE_FILE] = text.encode()
    for name, text in (given | lacking).items():
        write_bytes(folder / name, text)
    return {name: hashlib.sha256(text).hexdigest() for name, text in lacking.items()}


# ---- the card


def model_card(folder: Path, title: str, name: str) -> str:
    """Return the card of a model folder, without front matter. `name` is what `--model` is to be given."""
    said, configs = read_json(folder / MODEL_FILE), {part: read_json(folder / part / CONFIG_FILE) for part in PARTS}
    system = SYSTEMS.get(said["system"], said["system"])
    licence = said.get("license", UNKNOWN)
    about_licence = "it was not told to `halle pack`" if licence == UNKNOWN else \
        "as whoever packed the model says, from what the training data allows"
    return "\n".join([
        f"# {title}\n",
        f"A {system} model for zero-shot text-to-speech: it reads a text aloud in the voice of a few seconds of "
        "recording. Codec, AR and NAR model, for the command `halle`:\n",
        f"    halle synth --text script.txt --prompt ref.wav --model {name}\n",
        *_table(("", ""), _facts(said, configs)),
        "\n## Made from\n",
        "Fingerprints (the first 12 digits): of each part, and of what it was made from. This card does not know what "
        "they were: add which speech, how many hours, and whose voices.\n",
        *_table(("part", "fingerprint", "made from"), [_origin(part, config) for part, config in configs.items()]),
        f"\n## Licence\n\n`{licence}`: {about_licence}.\n",
        _USE,
    ])


def _facts(said: dict, configs: dict[str, dict]) -> list[tuple[str, str]]:
    ar, nar = configs["ar"]["architecture"], configs["nar"]["architecture"]
    counts = said["parameters"]
    facts = [
        ("system", SYSTEMS.get(said["system"], said["system"])),
        ("language", said.get("language", UNKNOWN)),
        ("parameters", ", ".join(f"{part} {_millions(counts[part])}" for part in PARTS)),
        ("sample rate", f"{said['sample_rate']:,} Hz"),
        ("bit rate", f"{said['bits_per_second'] / 1000:g} kbit/s"),
        ("frame rates", ", ".join(f"{stream} {rate:g} Hz" for stream, rate in said["frame_rates"].items())),
    ]
    if "max_frames" in ar:
        facts.append(("longest utterance in training", f"{ar['max_frames'] / ar['frame_rate']:.1f} s, "
                      f"{ar['max_text_tokens']:,} text tokens; a longer text is spoken in several passes"))
    if said.get("sampling"):
        facts.append(("sampling", ", ".join(f"{key} {setting_text(value)}" for key, value in said["sampling"].items())))
    if nar.get("prompt_seconds"):
        facts.append(("longest voice prompt in training", f"{nar['prompt_seconds']:g} s"))
    return facts


def _origin(part: str, config: dict) -> tuple[str, str, str]:
    parents = ", ".join(f"{name} `{fingerprint[:12]}`" for name, fingerprint in sorted(config["parents"].items()))
    return part, f"`{config['fingerprint'][:12]}`", parents or "not recorded"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)]


# ---- what the hub reads


def with_front_matter(card: str, said: dict, license_name: str | None = None) -> str:
    """Return the card with the YAML that the hub reads: licence, language and tags, where the card states none itself.

    A `license_name` that is given counts in any case. Raises `UsageError` when neither it, nor the card, nor the
    model's description names a licence.
    """
    found = _FRONT_MATTER.match(card)
    theirs, body = (_read_yaml(found[1]), found[2]) if found else ({}, card)
    licence = license_name or theirs.get("license") or said.get("license")
    if not licence:
        raise UsageError("expected the licence of the model, as its training data allows, got none",
                         "for example: --license cc-by-4.0")
    ours = {"language": [said.get("language", "en")], "library_name": "halle", "pipeline_tag": "text-to-speech",
            "tags": ["text-to-speech", "zero-shot", "voice-cloning", "neural-codec", "halle"]}
    if license_name or not theirs.get("license"):
        theirs = {key: value for key, value in theirs.items() if not key.startswith("license")} | _licence(licence)
    text = yaml.safe_dump({**ours, **theirs}, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n\n{body.lstrip()}"


def licence_of(card: str) -> str | None:
    """Return the licence that a card's front matter names."""
    found = _FRONT_MATTER.match(card)
    said = _read_yaml(found[1]) if found else {}
    name = said.get("license_name") or said.get("license")
    if name is not None and not isinstance(name, str):
        raise UsageError(f"expected one licence in the front matter of the card, got `{name}`",
                         "`license: other` and a `license_name` stand for several")
    return name


def _licence(name: str) -> dict[str, str]:
    if name.lower() in _KNOWN_TO_THE_HUB:
        return {"license": name.lower()}
    return {"license": "other", "license_name": name, "license_link": LICENSE_FILE}


def _read_yaml(text: str) -> dict:
    try:
        said = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"the front matter of the card is not YAML: {' '.join(str(error).split())}",
                         "mend what stands between its lines `---`") from error
    if not isinstance(said, dict):
        raise UsageError(f"expected `key: value` lines in the front matter of the card, got `{said}`")
    return said


def license_text(name: str) -> str | None:
    """Return the text to put beside a model under a licence: whole where halle has it, for Creative Commons by
    reference as it asks for; None where only its holder can write it."""
    name = name.lower()
    if name == "apache-2.0":
        return _own_license()
    if not (found := _CREATIVE_COMMONS.fullmatch(name)):
        return None
    kind, version = found.groups()
    path = f"publicdomain/zero/{version}" if kind == "0" else f"licenses/{kind.removeprefix('-')}/{version}"
    full = f"CC0 {version} Universal" if kind == "0" else f"CC {kind.removeprefix('-').upper()} {version}"
    return (f"This model is made available under {full} of Creative Commons.\n"
            f"Its text: https://creativecommons.org/{path}/legalcode\n")


def _own_license() -> str | None:
    """Return the text of halle's own licence, Apache 2.0, from its installation."""
    found = [file for file in metadata.files("halle") or () if file.name == LICENSE_FILE]
    return found[0].read_text(encoding="utf-8") if found else None
