"""Short forms of `make torture`: three kills a stage, some failing files, some resumes, some damage."""

from __future__ import annotations

import os

import corruption
import kills
import limits
import psutil
import pytest
import resume
import storage_faults
from children import in_child
from small_stages import MANY, TRAINERS
from torture_figures import Bench, Figure, Measured, run_figure, table

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
STAGES = (*MANY, *TRAINERS)


@pytest.fixture(scope="module")
def bench(chain, tmp_path_factory) -> Bench:
    return Bench(chain, tmp_path_factory.mktemp("torture"), kills=3)


@pytest.fixture(scope="module")
def stages(bench):
    assert set(bench.stages) == set(STAGES)
    return bench.stages


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_killed_three_times_ends_as_if_it_had_not_been(stages, bench, name):
    tally = kills.torture(stages[name], bench.kills, 1, bench.work / name)
    assert tally.problems == [] and tally.kills == 3


def test_what_is_broken_under_a_final_name_would_be_found(stages, bench, tmp_path):
    out = tmp_path / "out"
    assert in_child(lambda: stages["curate"].run(out), tmp_path / "log.txt").code == 0
    clip = next(out.rglob("*.flac"))
    clip.write_bytes(clip.read_bytes()[:-500])
    (out / "statistics.json").write_text("{", encoding="utf-8")
    assert {line.split(":")[0] for line in kills.broken_files(out)} >= {
        clip.relative_to(out).as_posix(), "statistics.json", "checksums.json"}


@pytest.mark.parametrize("name, every", [("train-ar", 90), ("curate", 16)])
def test_failing_files_end_a_stage_with_one_line_and_code_4_and_it_goes_on(chain, stages, bench, name, every):
    inputs = (chain.data, chain.codec, chain.mreq, chain.tokens, bench.work)
    swept = storage_faults.sweep(stages[name], inputs, bench.work / f"faults-{name}", every, resume_every=2)
    assert swept.problems == [] and swept.failures >= 5


def test_a_resumed_training_has_the_same_bits(stages, bench):
    found = resume.resume_everywhere(stages["train-ar"], 8, 3, bench.work / "resume", "training.accumulation=2")
    assert found.problems == [] and found.resumes == 4 and found.values > 50


def test_flipped_bits_and_cut_files_are_seen_and_named(chain, tmp_path):
    found = corruption.damage(chain.ar, chain.tokens, 30, 10, 0, tmp_path / "damage")
    assert found.problems == [] and (found.flips, found.cuts) == (30, 10)


def test_harmful_files_are_refused_and_not_run(chain, tmp_path):
    count, seconds, memory, problems = corruption.refuse_all(chain.ar, chain.tokens, chain.codec / "encodec.pt",
                                                             tmp_path / "harm")
    assert problems == [] and count > 15
    held = psutil.Process().memory_info().rss  # by this process, from which the children are forked
    assert seconds < 5 and memory - held < 5e8


@pytest.mark.parametrize("measure", [limits.two_writers, limits.workers], ids=lambda measure: measure.__name__)
def test_runs_beside_each_other_and_workers_do_no_harm(bench, measure):
    assert measure(bench).problems == []


def test_too_little_space_is_refused_before_a_training_begins(bench):
    assert limits._room_problems(bench) == []


def test_figures_become_rows_of_a_table_also_when_they_cannot_be_measured(bench):
    def fail(_):
        raise ValueError("no")

    figures = (Figure("R1", "0", lambda _: Measured("0", [])), Figure("R2", "0", fail))
    lines = table([run_figure(figure, bench) for figure in figures]).splitlines()
    assert "| R1 | 0 | 0 | yes |" in lines[2] and "| R2 | 0 | not measured | NO |" in lines[3]
