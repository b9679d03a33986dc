"""What a step of curating untranscribed recordings is: a pure function of a recording and of earlier steps' results.

    check -> gate -> fingerprint -> vad -> diarize -> transcribe -> cut

A step's module makes one `Step`; the chain of all is in stages/curation/chain.py, which runs them, keeps every result
as a JSON file of its own (OUT/work/STEP/STEM.json), and does again what other settings or models would change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stages.config.stage_configs import CurateConfig
from stages.curation.recordings import Recording

Results = dict[str, dict]  # step -> what it found in one recording


def _nothing(config: CurateConfig) -> str:
    return ""


@dataclass(frozen=True)
class Step:
    """One step. All of its functions are cheap but `run`, and none of them writes anything.

    `needs` names the earlier steps whose results `run` reads, `beside` the suffixes of files beside the audio (of its
    name: `.rttm`) that it reads: when one comes, goes or changes, the step is done again. `settings` returns,
    JSON-ready, whatever the result depends on besides the recording: settings, the model's name and version; it loads
    no model. `missing` says what has to be installed before `run` can work, empty when nothing has. All are functions
    of a module, so that they reach other processes.

    `run(recording, inputs, config)` returns a JSON-ready dict; `inputs` maps the names in `needs` to their results. A
    result with a `reason` that is not empty drops the recording: later steps do not see it. An `AudioError` that it
    raises drops it too, with that error's reason. `run` loads its model on first use and keeps it (`functools.cache`).
    """

    name: str
    needs: tuple[str, ...]
    settings: Callable[[CurateConfig], dict]
    run: Callable[[Recording, Results, CurateConfig], dict]
    missing: Callable[[CurateConfig], str] = _nothing
    beside: tuple[str, ...] = ()
