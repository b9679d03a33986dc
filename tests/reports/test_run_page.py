"""The page of a run is made of its files alone, tells what they hold, and points to what deserves a look."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

from stages.artifacts.samples import Sample, list_samples
from stages.reports.axes import short
from stages.reports.curves import Curve, chart, ramp
from stages.reports.health import warnings_of
from stages.reports.history import Series, read_history, smoothed, thinned, total
from stages.reports.listening import KEPT, grey_png, keep_samples
from stages.reports.run import run_page, update_report

EVIL = "</p><script>alert('x')</script>\"&'"
RATE = 8000


class Tags(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.opened, self.words = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.opened.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def make_run(folder, rows=(), stage="train-codec", log="", **settings):
    folder.mkdir(exist_ok=True)
    config = {"seed": 7, "training.steps": 1000, "training.batch_size": 8, "crop_seconds": 1.0, **settings}
    recorded = {"format_version": 1, "stage": stage, "config": config, "parents": {"data": "a" * 64}}
    (folder / "config.json").write_text(json.dumps(recorded), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "log.txt").write_text(log, encoding="utf-8")
    return folder


def steady(count=40, **more):
    return [{"step": 10 * index, "loss": 1 / index, "seconds_per_step": 0.5, **more} for index in range(1, count + 1)]


def series(*values, every=10):
    return Series(np.arange(1, len(values) + 1) * every, np.array(values, dtype=np.float64))


def tone(hertz, seconds=0.5):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def pair(step, group="clip-1"):
    return [Sample(group, "original", tone(1000), RATE), Sample(group, "reconstruction", tone(1000 + step), RATE)]


# history


def test_a_series_has_every_row_gaps_where_values_were_not_finite_and_no_torn_line(tmp_path):
    run = make_run(tmp_path, [{"step": 1, "l1": 3.0}, {"step": 2, "l1": None}, {"step": 3, "mel": 1.0}])
    torn = (run / "metrics.jsonl").read_bytes() + b'{"step": 4, "l1"'
    (run / "metrics.jsonl").write_bytes(torn)
    history = read_history(run)
    assert list(history) == ["l1", "mel"]
    np.testing.assert_array_equal(history["l1"].values, [3.0, np.nan])
    np.testing.assert_array_equal(history["l1"].steps, [1, 2])
    assert (run / "metrics.jsonl").read_bytes() == torn, "a page may be made while a run writes"


def test_thinning_gives_means_of_neighbours():
    values = np.random.default_rng(0).normal(size=1003)
    values[100:200:3] = np.nan
    found = thinned(series(*values), most=70)
    starts = [index * 1003 // 70 for index in range(71)]
    expected = [np.nanmean(values[first:stop]) for first, stop in itertools.pairwise(starts)]
    np.testing.assert_allclose(found.values, expected)
    assert np.isnan(thinned(series(*[np.nan] * 10, *[1.0] * 10), most=2).values).tolist() == [True, False]


def test_smoothing_lags_nothing_and_keeps_a_constant_and_its_gaps():
    line = np.linspace(0, 1, 200)
    np.testing.assert_allclose(smoothed(series(*line)).values[20:-20], line[20:-20], atol=1e-9)
    constant = np.full(100, 4.0)
    constant[[3, 50]] = np.nan
    np.testing.assert_allclose(smoothed(series(*constant)).values, constant)
    noise = np.random.default_rng(0).normal(size=400)
    assert smoothed(series(*noise)).values.std() < 0.5 * noise.std()


def test_a_total_is_taken_where_all_are_known():
    found = total([series(1.0, 2.0, 3.0), Series(np.array([20, 30]), np.array([10.0, 20.0]))])
    np.testing.assert_array_equal(found.steps, [20, 30])
    np.testing.assert_array_equal(found.values, [12.0, 23.0])


# charts


def paths(svg):
    """Return the points of every curve of a chart, one array a stroke of the pen."""
    drawn = re.findall(r'<path d="([^"]*)" fill="none"', svg)
    return [[np.array([pair.split() for pair in stroke.split("L")], dtype=float) for stroke in path.split("M")[1:]]
            for path in drawn]


def test_a_chart_draws_values_in_proportion():
    (points,), = paths(chart("loss", [Curve("", series(1.0, 2.0, 5.0), "red")]))
    x, y = points.T
    assert x[2] - x[1] == pytest.approx(x[1] - x[0], abs=0.11)
    assert (y[0] - y[2]) / (y[0] - y[1]) == pytest.approx(4, rel=0.01), "higher values are higher up"
    assert y.min() > 0 and y.max() < 152


def test_values_of_very_different_size_get_a_logarithmic_scale():
    svg = chart("norm", [Curve("", series(0.01, 1.0, 100.0), "red")])
    (points,), = paths(svg)
    assert points[0, 1] - points[1, 1] == pytest.approx(points[1, 1] - points[2, 1], abs=0.11)
    assert "norm, logarithmic" in Tags(svg).text
    assert "logarithmic" not in chart("norm", [Curve("", series(-0.01, 1.0, 100.0), "red")])


def test_a_gap_lifts_the_pen_and_a_chart_without_values_is_left_out():
    (strokes,) = paths(chart("loss", [Curve("", series(1.0, 2.0, np.nan, 3.0), "red")]))
    assert [len(stroke) for stroke in strokes] == [2, 1]
    assert chart("loss", [Curve("", series(np.nan), "red")]) == ""


def test_a_few_outliers_leave_the_picture_to_the_others():
    values = np.sin(np.arange(300.0))
    values[150] = 1e6
    pale, _ = paths(chart("adversarial", [Curve("", series(*values), "red")]))
    heights = np.concatenate(pale)[:, 1]
    assert np.percentile(heights, 90) - np.percentile(heights, 10) > 40


def test_long_curves_are_smoothed_over_their_pale_selves_unless_they_are_many():
    curve = Curve("a", series(*np.random.default_rng(0).normal(size=300)), "red")
    assert len(paths(chart("x", [curve]))) == 2
    assert len(paths(chart("x", [curve] * 6))) == 6


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [1e-9, 1e-9], [1e12, -1e12], [5.0] * 100])
def test_odd_values_have_a_chart_too(values):
    for scale in ("auto", "zero", "log"):
        svg = chart("x", [Curve("", series(*values), "red", dots=True)], scale)
        assert "nan" not in svg and "inf" not in svg and paths(svg)


def test_numbers_on_axes_are_short():
    numbers = [0, 0.5, -18.7, 950, 2000, 12_000, 160_000, 1.5e6, 2e-5, 0.0123]
    assert [short(number) for number in numbers] == ["0", "0.5", "-18.7", "950", "2000", "12k", "160k", "1.5M", "2e-5",
                                                     "0.0123"]


def test_ticks_that_are_close_are_told_apart():
    words = Tags(chart("x", [Curve("", series(1.9999, 2.0001), "red")])).words
    assert len({word for word in words if re.fullmatch(r"(1\.99|2\.00|2$)\d*", word)} - {""}) >= 2


def test_colours_of_an_order_are_all_different():
    assert [len(set(ramp(count))) for count in (1, 2, 8)] == [1, 2, 8]


# page


def test_the_page_tells_how_far_how_fast_and_how_long_still(tmp_path):
    text = Tags(run_page(make_run(tmp_path, steady(40)))).text
    expected = ("halle train-codec", "400 of 1,000 (40 %)", "3 min of training, about 5 min to go",
                "2 steps a second (0.5 s a step), 16 s of audio a second", "data aaaaaaaaaaaa")
    assert [told for told in expected if told not in text] == []


def test_language_models_tell_codes_a_second(tmp_path):
    run = make_run(tmp_path, steady(40, tokens=600.0), stage="train-ar")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    del config["config"]["crop_seconds"]
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "1,200 codes a second" in Tags(run_page(run)).text


def test_a_run_that_is_done_says_so_and_one_that_has_told_nothing_has_a_page(tmp_path):
    assert ", done" in Tags(run_page(make_run(tmp_path / "done", steady(100)))).text
    assert "0 of 1,000 (0 %)" in Tags(run_page(make_run(tmp_path / "fresh"))).text


def titles(html):
    return {attrs["aria-label"] for tag, attrs in Tags(html).opened if tag == "svg" and "aria-label" in attrs}


def test_every_series_has_its_place_in_some_chart(tmp_path):
    row = {"step": 10, "l1": 1.0, "loss.codebook1": 1.0, "loss.codebook2": 2.0, "gradient_norm.model": 1.0,
           "gradient_at_h.fld": 1.0, "usage.rvq.1": 0.5, "perplexity.rvq.1": 9.0, "revived.rvq.1": 1,
           "learning_rate": 0.1, "seconds_per_step": 1.0}
    measured = {"step": 10, "validation.l1": 1.0, "validation.si_sdr": 3.0, "validation.accuracy.level1": 0.5,
                "validation.probe.only_first_1.mel": 1.0, "validation.probe.only_first_2.mel": 1.0,
                "validation.probe.first_block_explains": 0.5}
    html = run_page(make_run(tmp_path, [row, measured]))
    assert titles(html) == {
        "l1", "loss of each codebook, training", "gradient norm", "gradient at h", "learning rate",
        "seconds per step", "si_sdr", "accuracy of each level, validation", "probe: only first N, mel, validation",
        "probe: first block explains, validation", "rvq: usage of each codebook", "rvq: perplexity of each codebook",
        "entries revived so far"}
    assert "validation: 1" in Tags(html).text, "beside the training's own curve"


def cells(html):
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in re.findall(r"<tr>.*?</tr>", html)]


def codebook_rows(perplexities, **more):
    row = {"step": 100}
    for (stream, index), value in perplexities.items():
        row |= {f"validation.usage.{stream}.{index}": value / 200, f"validation.perplexity.{stream}.{index}": value}
    return [row | more]


def test_every_codebook_has_a_row_with_its_health(tmp_path):
    trained = {"usage.quant1.1": 0.6, "perplexity.quant1.1": 50.0, "revived.quant1.1": 1234}
    rows = codebook_rows({("quant1", 1): 80.0, ("quant1", 2): 8.0, ("pre2", 1): 8.0}, **trained)
    run = make_run(tmp_path, rows, **{"codec.quantizer.codebook_size": 100})
    assert cells(run_page(run))[1:] == [
        ["quant1", "1", "60.0", "50.0", "50.0", "40.0", "80.0", "1234", ""],
        ["quant1", "2", "–", "–", "8.0", "4.0", "8.0", "–", "little used"],
        ["pre2", "1", "–", "–", "8.0", "4.0", "8.0", "–", ""],
    ]


def test_a_codebook_s_size_is_found_in_a_checkpoint_when_the_teacher_gave_it(tmp_path):
    run = make_run(tmp_path, codebook_rows({("quant1", 1): 80.0}), stage="mreq")
    assert cells(run_page(run))[1][4] == "–"
    folder = run / "checkpoints" / "step-00000100"
    folder.mkdir(parents=True)
    config = {"format_version": 1, "architecture": {"quantizer": {"codebook_size": 200}}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert cells(run_page(run))[1][4] == "40.0"


def test_no_text_of_the_user_becomes_a_tag(tmp_path):
    log = f"2026-01-01 00:00:00,000 WARNING halle.data: left out: {EVIL}\n"
    row = {"step": 10, EVIL: 1.0, f"validation.{EVIL}": 1.0, f"x.{EVIL}": 1.0, f"gradient_norm.{EVIL}": 1.0}
    row |= {f"validation.usage.{EVIL}.1": 0.5, f"validation.perplexity.{EVIL}.1": 1.0}
    html = run_page(make_run(tmp_path, [row], stage=EVIL, log=log, data=EVIL))
    assert "<script" not in html
    assert EVIL in "".join(Tags(html).words)


# listening


def test_samples_of_the_newest_validations_are_kept_and_of_steps_not_reached_dropped(tmp_path):
    for step in range(1, KEPT + 3):
        keep_samples(tmp_path, step, pair(step))
    assert [step for step, _ in list_samples(tmp_path)] == [3, 4, 5, 6]
    keep_samples(tmp_path, 4, pair(4))  # continued from step 3
    assert [step for step, _ in list_samples(tmp_path)] == [3, 4]
    keep_samples(tmp_path, 5, [])
    assert [step for step, _ in list_samples(tmp_path)] == [3, 4]


def test_what_a_model_made_says_so_in_its_file_and_a_recording_does_not(tmp_path):
    sound = np.zeros(100, np.float32)
    recording = Sample("a", "original", sound, 24_000, synthetic=False)
    keep_samples(tmp_path, 1, [recording, Sample("a", "made", sound, 24_000)])
    folder = tmp_path / "samples" / "step-00000001" / "a"
    comments = {name: soundfile.SoundFile(folder / f"{name}.flac").comment for name in ("original", "made")}
    assert "synthetic" in comments["made"] and comments["original"] == ""


def test_what_a_killed_process_left_is_swept(tmp_path):
    leftover = tmp_path / "samples" / ".halle-tmp-1234-step-00000001"
    leftover.mkdir(parents=True)
    keep_samples(tmp_path, 2, pair(2))
    assert [folder.name for folder in (tmp_path / "samples").iterdir()] == ["step-00000002"]


def test_sounds_are_side_by_side_playable_and_what_stays_the_same_is_shown_once(tmp_path):
    run = make_run(tmp_path / "a run", steady(3))
    for step in (10, 20):
        update_report(run, step, pair(step))
    html = (run / "report.html").read_text(encoding="utf-8")
    found = [unquote(attrs["src"]) for tag, attrs in Tags(html).opened if tag == "audio"]
    assert found == ["samples/step-00000020/clip-1/original.flac", "samples/step-00000020/clip-1/reconstruction.flac",
                     "samples/step-00000010/clip-1/reconstruction.flac"]
    assert all((run / path).is_file() for path in found)
    captions = [text for text in Tags(html).words if re.match("original|reconstruction", text)]
    assert captions == ["original", "reconstruction, step 20", "reconstruction, step 10"]
    sources = [attrs["src"] for tag, attrs in Tags(html).opened if tag == "img"]
    assert len(sources) == 3 and all(source.startswith("data:image/png;base64,") for source in sources)


def test_a_page_made_again_is_the_same_but_for_the_time(tmp_path):
    run = make_run(tmp_path, steady(30))
    update_report(run, 300, pair(1))

    def without_time(html):
        return re.sub(r"<dt>page written</dt><dd>.*?</dd>", "", html)

    assert without_time(run_page(run)) == without_time((run / "report.html").read_text(encoding="utf-8"))


def test_a_spectrogram_is_dark_where_the_tone_is_and_low_tones_lie_low(tmp_path):
    from matplotlib.image import imread

    from stages.reports.listening import _power, _shades

    power = _power(tone(1000))
    picture = imread(io.BytesIO(grey_png(_shades(power, float(power.max())))))
    rows = picture.shape[0]
    darkest = int(picture[:, picture.shape[1] // 2].argmin())
    assert abs((rows - 1 - darkest) / (rows - 1) - 1000 / (RATE / 2)) < 0.01
    assert picture.min() == 0 and picture.max() == 1


# what deserves a look


def warned(tmp_path, rows, log=""):
    run = make_run(tmp_path, rows, log=log)
    keep_samples(run, 1, pair(1))
    return warnings_of(run, read_history(run))


def rows_of(name, values, every=10):
    return [{"step": (index + 1) * every, name: value} for index, value in enumerate(values)]


FALLING = [1 + np.exp(-index / 20) for index in range(100)]
CALM = [1.0 + 0.1 * (index % 3) for index in range(100)]


@pytest.mark.parametrize("rows, message", [
    (rows_of("mel", [*FALLING[:60], *np.linspace(1.1, 1.6, 40)]), "mel rises: 1.54 in the last tenth"),
    (rows_of("validation.loss", [3.0, 2.0, 2.2, 2.5]), "validation loss rises: 2.5, it was 2 at step 20"),
    (rows_of("gradient_norm.model", [*CALM[:90], 50.0, *CALM[:5]]), "norm of model reached 50 at step 910"),
    (rows_of("l1", [*FALLING[:50], None, *FALLING[50:]]), "l1 was not finite in 1 of 101 rows, the last at step 510"),
    (codebook_rows({("quant1", 1): 100.0, ("quant1", 2): 20.0}), "quant1 in little use: 2 (perplexity 20)"),
    ([{"step": 10, "gradient_at_h.nac": 1e-3, "gradient_at_h.fld": 4e-3, "gradient_at_h.hsr": 1e-2}],
     "hsr pulls 10 times as hard at the latents as the losses of the waveform do: lower losses.hsr"),
    (codebook_rows({("post1", 1): 1.2}), "post1 in little use: 1 (perplexity 1.2)"),
])  # fmt: skip
def test_what_goes_wrong_is_told(tmp_path, rows, message):
    (found,) = warned(tmp_path, rows)
    assert message in found


@pytest.mark.parametrize("rows", [
    rows_of("mel", FALLING), rows_of("adversarial", [*FALLING, *np.linspace(1, 9, 50)]),
    rows_of("validation.loss", [3.0, 2.0, 2.2, 2.1]), rows_of("validation.si_sdr", [3.0, 2.0, 5.0, 9.0]),
    rows_of("gradient_norm.model", [50.0, *CALM]), rows_of("gradient_norm.model", CALM),
    codebook_rows({("quant1", 1): 100.0, ("quant1", 2): 30.0, ("quant4", 1): 10.0}), [],
    [{"step": 10, "gradient_at_h.fld": 9.0}],  # while encoder and decoder are frozen, there is nothing beside it
])  # fmt: skip
def test_what_goes_well_is_not(tmp_path, rows):
    assert warned(tmp_path, rows) == []


def test_warnings_of_the_log_are_told_newest_first_and_alike_ones_once(tmp_path):
    skipped = "2026-01-01 00:00:0{0},000 WARNING halle.training: step {0} skipped: a loss is not finite\n"
    other = "2026-01-01 00:00:05,000 WARNING halle.data: left out: `a.wav`\n"
    log = skipped.format(1) + other + skipped.format(6) + "2026-01-01 00:00:07,000 INFO halle.x: fine\nTraceback\n"
    assert warned(tmp_path, [], log) == [
        "step 6 skipped: a loss is not finite (2026-01-01 00:00:06, 2 times so far)",
        "left out: `a.wav` (2026-01-01 00:00:05)"]


def test_silent_samples_and_a_codec_run_without_any_are_told(tmp_path):
    run = make_run(tmp_path)
    keep_samples(run, 10, [*pair(1), Sample("clip-2", "reconstruction", np.zeros(4000, np.float32), RATE)])
    assert warnings_of(run, {}) == ["nothing is heard in clip-2 reconstruction"]
    shutil.rmtree(run / "samples")
    measured = read_history(make_run(run, codebook_rows({("rvq", 1): 50.0})))
    assert warnings_of(run, measured) == ["there is no audio to hear: validations of this codec left none in samples"]


def test_what_is_said_and_heard_stands_beside_a_sound_and_is_escaped(tmp_path):
    run = make_run(tmp_path, steady(5))
    update_report(run, 10, [Sample("text-1", "spoken, lowest stream alone", tone(500), RATE, f"heard: {EVIL}")])
    html = (run / "report.html").read_text(encoding="utf-8")
    assert f"spoken, lowest stream alone, step 10; heard: {EVIL}" in Tags(html).text
    assert "<script>" not in html
    (sound,) = [attrs["src"] for tag, attrs in Tags(html).opened if tag == "audio"]
    assert (run / unquote(sound)).is_file()
