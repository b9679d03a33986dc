"""Models of the Hugging Face hub by name: `org/name`, or `org/name@REVISION`.

What is here already is never mistaken for one: a path that exists, or would lie in a folder that exists, is a path.
`hf://org/name` is a name in any case. Only the files of a model folder are fetched, into the hub's own cache, and
only what was verified is used. Nothing here waits longer than `ANSWER_SECONDS` for a hub that does not answer.
"""

from __future__ import annotations

import logging
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from stages.artifacts.model_folder import MODEL_FILES, in_short, verify_model
from stages.errors import HalleError, MissingModelError, StorageError, UsageError

log = logging.getLogger("halle.hub")

ANSWER_SECONDS = 8.0
_NAME = re.compile(r"(?:(hf:)/{1,2})?([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w.-]+))?", re.ASCII)
_WEIGHTS = (".pt", ".pth", ".th", ".bin", ".safetensors")  # a file that is not there, rather than a name
_COMMIT_DIGITS = 12
_REASON_CHARACTERS = 200

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class HubName:
    """A repository of the hub, and perhaps a branch, tag or commit of it."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def hub_name(path: str | Path) -> HubName | None:
    """Return what a text names on the hub; None when it is a path of this machine."""
    text = path.as_posix() if isinstance(path, Path) else path
    match = _NAME.fullmatch(text)
    if not match:
        return None
    explicit, repo, revision = match.groups()
    local = Path(repo)
    if not explicit and (Path(text).exists() or local.parent.exists() or local.suffix in _WEIGHTS):
        return None
    return HubName(repo, revision)


def local_copy(path: str | Path) -> Path:
    """Return the folder of a model of the hub, fetched if need be; any other path as it is.

    Raises `MissingModelError` when it cannot be had, `UsageError` when it is no model of halle, `StorageError` when
    it is damaged.
    """
    name = hub_name(path)
    return Path(path) if name is None else fetch_model(name)


# ---- from the hub


@lru_cache
def fetch_model(name: HubName) -> Path:
    """Return the folder of a model in the hub's cache, verified; the hub is asked once for what it has now.

    Without an answer, or with `HF_HUB_OFFLINE=1`, the copy that was fetched before is taken.
    """
    failure = None
    if not _is_offline():
        try:
            return _verified(name, _fetch(name))
        except HalleError:
            raise
        except Exception as error:  # the hub's libraries raise a dozen kinds, and none of them is a fault of ours
            failure = error
    cached = _cached(name)
    if cached is None:
        raise _missing(name, failure) from failure
    if failure is not None:
        log.warning("the hub gave no answer for `%s` (%s): taking the copy that was fetched before", name,
                    _reason(failure))
    return _verified(name, cached)


def _fetch(name: HubName) -> Path:
    hub = _hub()
    found = _answer_of(lambda: hub.HfApi().model_info(name.repo, revision=name.revision, timeout=ANSWER_SECONDS,
                                                      files_metadata=True))
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
    if lacking := [file for file in MODEL_FILES if file not in sizes]:
        raise UsageError(f"expected a model of halle, got `{name}` of the hub, which lacks {in_short(lacking)}",
                         "models that were pushed with `halle pack --push` are such")
    missing = [file for file in MODEL_FILES
               if not isinstance(hub.try_to_load_from_cache(name.repo, file, revision=found.sha), str)]
    if missing:
        log.info("fetching `%s` from the hub, %.1f MB", name, sum(sizes[file] for file in missing) / 1e6)
    return Path(hub.snapshot_download(name.repo, revision=name.revision, allow_patterns=list(MODEL_FILES),
                                      etag_timeout=ANSWER_SECONDS))


def _cached(name: HubName) -> Path | None:
    """Return the folder of what was fetched before, if all of it was."""
    hub = _hub()
    files = [hub.try_to_load_from_cache(name.repo, file, revision=name.revision) for file in MODEL_FILES]
    return Path(files[0]).parent if all(isinstance(file, str) for file in files) else None


def _verified(name: HubName, folder: Path) -> Path:
    try:
        verify_model(folder)
    except StorageError as error:
        raise StorageError(error.message, f"fetch it again: hf download {name.repo} --force-download"
                                          f"{_revision_option(name)}") from error
    log.info("model `%s` of the hub: commit %s", name, folder.name[:_COMMIT_DIGITS])
    return folder


def _missing(name: HubName, failure: Exception | None) -> MissingModelError:
    if _status(failure) in (401, 403, 404):
        return MissingModelError(f"`{name}` is no folder here, and no model of the hub that you may read: "
                                 f"{_reason(failure)}", "check the name; for a private or gated model: hf auth login")
    reason = "HF_HUB_OFFLINE is set, and it was not fetched before" if failure is None else _reason(failure)
    return MissingModelError(f"`{name}` is no folder here, and could not be had from the hub: {reason}",
                             f"on a machine with network: hf download {name.repo}{_revision_option(name)} --local-dir "
                             f"MODEL; then copy MODEL here, and give its path in place of `{name}`")


def _revision_option(name: HubName) -> str:
    return f" --revision {name.revision}" if name.revision else ""


# ---- to the hub


def name_to_push(text: str) -> HubName:
    """Return the repository, and perhaps the branch, that a text names; raise `UsageError` for another text."""
    match = _NAME.fullmatch(text)
    if not match:
        raise UsageError(f"expected a name of the hub such as `org/name` after --push, got `{text}`")
    return HubName(*match.groups()[1:])


def push_model(name: HubName, files: Mapping[str, Path | bytes], message: str, again: str) -> dict[str, str]:
    """Commit files to a repository of the hub at once; it is made, open to all, when there is none.

    `files` are paths or contents by the path that they get. `again` is the command that pushes these files, for
    errors. Raises `MissingModelError` without network, token or leave.
    """
    hub = _hub()
    if _is_offline():
        raise MissingModelError(f"nothing was pushed to `{name}`: HF_HUB_OFFLINE is set",
                                f"without it, on a machine with network: {again}")
    if not hub.get_token():
        raise MissingModelError(f"nothing was pushed to `{name}`: there is no token of the hub on this machine",
                                f"hf auth login (with a token that may write), then: {again}")
    api = hub.HfApi()
    with _pushing(name, again):
        _answer_of(api.whoami)
        url = _answer_of(lambda: api.create_repo(name.repo, exist_ok=True))
        additions = [hub.CommitOperationAdd(path, source) for path, source in sorted(files.items())]
        done = api.create_commit(name.repo, additions, commit_message=message, revision=name.revision)
    return {"pushed": str(url), "commit": done.oid}


@contextmanager
def _pushing(name: HubName, again: str) -> Iterator[None]:
    """Say of what fails on the way to the hub what to do about it."""
    try:
        yield
    except ValueError as error:  # of the card's metadata, before anything is sent
        raise UsageError(f"the hub refuses the card of `{name}`: {_reason(error)}",
                         "mend what stands between the lines `---` of the card") from error
    except Exception as error:
        hint = f"hf auth login (with a token that may write there), then: {again}" if _status(error) in (401, 403) \
            else f"on a machine with network, where the folder is and after hf auth login: {again}"
        raise MissingModelError(f"nothing was pushed to `{name}`: {_reason(error)}", hint) from error


# ---- the hub


def _hub() -> Any:
    """Return the hub's package, its bars only where there is a terminal. It is heavy, so it is imported here."""
    import huggingface_hub
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    return huggingface_hub


def _is_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _answer_of(ask: Callable[[], Answer]) -> Answer:
    """Return what `ask` does or raise what it does, but wait for `ANSWER_SECONDS` only.

    Looking up a name, or a server that says nothing, may take longer than any timeout of a library.
    """
    answers: queue.Queue[tuple[Answer | None, Exception | None]] = queue.Queue()

    def work() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        answer, failure = answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} s") from None
    if failure is not None:
        raise failure
    return answer


def _status(error: Exception | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:_REASON_CHARACTERS] or type(error).__name__
