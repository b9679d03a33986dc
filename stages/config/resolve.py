"""Merge a preset, a file, overrides and options (later wins) into the settings of a stage."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stages.config import protocols, stage_configs
from stages.config.presets import PRESETS
from stages.errors import UsageError

DEEPEST, MOST_VALUES = 20, 100_000  # of a config file

CONFIG_OF_STAGE: dict[str, type[stage_configs.RunConfig]] = {
    "curate": stage_configs.CurateConfig,
    "train-codec": stage_configs.TrainCodecConfig,
    "mreq": stage_configs.MReQConfig,
    "tokenize": stage_configs.TokenizeConfig,
    "train-ar": stage_configs.TrainARConfig,
    "train-nar": stage_configs.TrainNARConfig,
    "synth": stage_configs.SynthConfig,
    "eval": stage_configs.EvalConfig,
}


def resolve(stage: str, preset: str = "mini", file: str | None = None, overrides: tuple[str, ...] = (),
            options: dict[str, Any] | None = None) -> stage_configs.RunConfig:
    """Return the checked settings of `stage`; every problem of the given keys and values is reported at once.

    `overrides` are `dotted.key=value` texts with YAML values, `options` are dotted keys from the command line
    (None means not given).
    """
    if preset not in PRESETS:
        raise UsageError(f"expected a preset of {', '.join(PRESETS)}, got `{preset}`" + did_you_mean(preset, PRESETS))
    if preset == "finetune" and stage in ("train-codec", "mreq"):
        raise UsageError("`finetune` is for language models: with another codec they would read other codes",
                         "choose another --preset to train a codec")
    config_class = CONFIG_OF_STAGE[stage]
    merged: dict[str, Any] = config_class().model_dump()  # nested settings keep this stage's own defaults
    given = _given(stage, file, overrides, options or {})
    fixed = protocols.settings_of(given) if stage == "eval" else {}
    for settings in (PRESETS[preset].get(stage, {}), fixed, given):
        _merge(merged, settings)
    _refuse_unknown(config_class, merged)
    try:
        config = config_class.model_validate(merged)
    except ValidationError as error:
        raise UsageError(_explain(error), f"halle {stage} --dry-run prints every setting") from error
    if problems := protocols.contradictions(config):
        raise UsageError("; ".join(problems), "leave these settings to the protocol, or score without --protocol")
    return config


def _given(stage: str, file: str | None, overrides: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Return what the user has set in a file, overrides and options."""
    given: dict[str, Any] = {}
    if file is not None:
        _merge(given, _read_config_file(Path(file), stage))
    for override in overrides:
        _merge(given, _parse_override(override))
    for key, value in options.items():
        if value is not None:
            _merge(given, _nest(key, value))
    return given


def _read_config_file(path: Path, stage: str) -> dict:
    """A config file holds a stage's settings, or one section a stage."""
    try:
        content = _read_yaml(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise UsageError(f"config file `{path}` does not exist", "check the path after --config") from error
    except OSError as error:
        raise UsageError(f"config file `{path}` cannot be read: {error.strerror.lower()}",
                         "give a YAML file after --config") from error
    except ValueError as error:
        raise UsageError(f"config file `{path}` is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"config file `{path}` should hold `key: value` lines", "--dry-run prints every setting")
    if content and all(key in CONFIG_OF_STAGE for key in content):
        content = content.get(stage) or {}
    if not isinstance(content, dict):
        raise UsageError(f"section `{stage}` of config file `{path}` should hold `key: value` lines",
                         "--dry-run prints every setting")
    return content


def _read_yaml(text: str) -> Any:
    """Return what YAML says, in kinds of value that JSON has too; raise `ValueError` for anything else."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, AttributeError, TypeError) as error:  # the last two: a tag on the wrong kind of value
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _refuse_no_json(value, [MOST_VALUES])
    return value


def _refuse_no_json(value: Any, left: list[int], depth: int = 0) -> None:
    """Raise `ValueError` for keys that are no text, dates, sets, and what aliases make endless or huge."""
    left[0] -= 1
    if left[0] < 0 or depth > DEEPEST:
        raise ValueError("it holds more values, or nests them deeper, than settings can")
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"a key should be text, got `{wrong[0]}`")
        for inner in value.values():
            _refuse_no_json(inner, left, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _refuse_no_json(inner, left, depth + 1)
    elif not isinstance(value, (str, int, float, type(None))):
        raise ValueError(f"a value should be text, a number, a list or settings, got `{value}`")


def _parse_override(text: str) -> dict:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"expected `dotted.key=value` after --override, got `{text}`",
                         "for example: -O training.steps=200")
    try:
        return _nest(key.strip(), _read_yaml(value))
    except ValueError as error:
        raise UsageError(f"the value of `{text[:200]}` is not YAML", "quote it") from error


def _nest(key: str, value: Any) -> dict:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(into: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def _refuse_unknown(config_class: type[BaseModel], values: dict) -> None:
    problems = list(_unknown_keys(config_class, values, ""))
    if problems:
        raise UsageError("; ".join(problems), "--dry-run prints every setting with its value")


def _unknown_keys(config_class: type[BaseModel], values: dict, prefix: str):
    for key, value in values.items():
        field = config_class.model_fields.get(key)
        if field is None:
            yield f"unknown key `{prefix}{key}`" + did_you_mean(key, config_class.model_fields)
        elif isinstance(value, dict) and (nested := _nested_class(field.annotation)):
            yield from _unknown_keys(nested, value, f"{prefix}{key}.")


def _nested_class(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def did_you_mean(word: str, known: Any) -> str:
    """Return a parenthesis with the known word that is closest, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _explain(error: ValidationError) -> str:
    problems = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        found = "" if problem["type"] == "value_error" or not key else f", got `{problem['input']}`"
        problems.append(f"`{key}`: {message[0].lower() + message[1:]}{found}" if key else message)
    return "; ".join(problems)


def flatten(config: BaseModel) -> dict[str, Any]:
    """Return dotted keys and JSON-ready values; tuples of settings stay one value."""
    flat: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            flat.update({f"{name}.{key}": inner for key, inner in flatten(value).items()})
        else:
            flat[name] = config.model_dump(mode="json", include={name})[name]
    return flat


def running_keys(config: BaseModel) -> set[str]:
    """Return the dotted keys of the fields that may change when a run is continued."""
    keys = set()
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("running"):
            keys |= {f"{name}.{key}" for key in flatten(value)} if isinstance(value, BaseModel) else {name}
        elif isinstance(value, BaseModel):
            keys |= {f"{name}.{key}" for key in running_keys(value)}
    return keys


def identity_differences(old: dict[str, Any], config: BaseModel) -> dict[str, tuple[Any, Any]]:
    """Return identity fields whose value differs from the old run's flat settings: key -> (old, new).

    A field that the old run lacks counts as its default.
    """
    new = flatten(config)
    defaults = flatten(type(config)())
    free = running_keys(config)
    return {key: (old.get(key, defaults.get(key)), value) for key, value in new.items()
            if key not in free and old.get(key, defaults.get(key)) != value}
