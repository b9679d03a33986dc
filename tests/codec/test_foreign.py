from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_codecs import make_student

from stages.artifacts.checkpoint import save_checkpoint
from stages.codec import foreign
from stages.codec.registry import build_codec, codec_fingerprint, export_codec, load_codec, load_teacher
from stages.config.models import CodecConfig, MRVQConfig
from stages.config.resolve import resolve
from stages.errors import MissingModelError, UsageError

MODULE = '''
import torch
from torch import nn
from stages.codec.base import TeacherCodes

CALLS = []

class Autoencoder(nn.Module):
    sample_rate, hop_length = 24_000, 200

    def __init__(self, dim):
        super().__init__()
        self.latent_dim = dim
        self.down, self.up = nn.Conv1d(1, dim, 200, 200), nn.ConvTranspose1d(dim, 1, 200, 200)

    def encode_latents(self, waveform):
        return self.down(waveform)

    def decode_latents(self, latents):
        return self.up(latents)


class Teacher(nn.Module):
    sample_rate, hop_length, num_codebooks, codebook_size = 24_000, 200, 8, 16

    def __init__(self, dim):
        super().__init__()
        self.latent_dim, self.architecture = dim, {"dim": dim}
        self.autoencoder = Autoencoder(dim)
        self.register_buffer("entries", torch.randn(8, 16, dim))

    def encode_latents(self, waveform):
        return self.autoencoder.encode_latents(waveform)

    def decode_latents(self, latents):
        return self.autoencoder.decode_latents(latents)

    def codebook(self, index):
        return self.entries[index]

    def quantize(self, latents):
        codes, sums, total = [], [], torch.zeros_like(latents)
        for entries in self.entries:
            distances = torch.cdist((latents - total).transpose(1, 2), entries.expand(len(latents), -1, -1))
            codes.append(distances.argmin(-1))
            total = total + entries[codes[-1]].transpose(1, 2)
            sums.append(total)
        return TeacherCodes(torch.stack(codes, 1), tuple(sums))


def make(dim=None):
    CALLS.append(dim)
    torch.manual_seed(0)
    return Teacher(dim or 6)

def make_short():
    teacher = make()
    teacher.decode_latents = lambda latents: teacher.autoencoder.decode_latents(latents)[..., :-3]
    return teacher

def make_other_entries():
    teacher = make()
    teacher.codebook = lambda index: teacher.entries[7 - index]
    return teacher

def make_failing():
    def quantize(latents):
        raise ZeroDivisionError("of theirs")
    teacher = make()
    teacher.quantize = quantize
    return teacher

def make_number():
    return 3

def make_unavailable():
    raise OSError("no weights here")
'''


@pytest.fixture
def maker(tmp_path, monkeypatch) -> str:
    """A module that this process can import and nobody has allowed yet."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "their_codec.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "their_codec", raising=False)
    monkeypatch.setattr(foreign, "_named_on_the_command_line", set())
    monkeypatch.delenv("HALLE_CODECS", raising=False)
    yield "their_codec:make"
    sys.modules.pop("their_codec", None)


@pytest.fixture
def student_file(maker, tmp_path) -> Path:
    student = make_student(load_teacher(maker), MRVQConfig())
    export_codec(student, tmp_path / "mreq.pt")
    save_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000001", "codec", student.export_config(),
                    student.state_dict(), {})
    return tmp_path / "mreq.pt"


def forget(monkeypatch) -> None:
    """As in a new process: nothing named on the command line, nothing imported."""
    monkeypatch.setattr(foreign, "_named_on_the_command_line", set())
    sys.modules.pop("their_codec", None)


def test_a_plugged_in_codec_is_a_codec_and_a_teacher(maker, waveform) -> None:
    codec = load_teacher(maker)
    assert (codec.streams[0].frame_rate, codec.bits_per_second, codec.alignment) == (120.0, 8 * 120 * 4, 200)
    latents = codec.encode_latents(waveform)
    streams = codec.encode(waveform)
    taught = codec.quantize(latents)
    assert torch.equal(streams["rvq"], taught.codes)
    torch.testing.assert_close(codec.embed(streams["rvq"][:, :3]), taught.partial_sums[2])
    expected = codec.decode_latents(taught.partial_sums[-1])[..., :23_000]
    torch.testing.assert_close(codec.decode(streams, 23_000), expected)
    torch.testing.assert_close(codec.hierarchy.teacher_feature(streams, 8), taught.partial_sums[-1])
    assert not codec.training and not any(parameter.requires_grad for parameter in codec.parameters())


def test_a_students_checkpoint_is_built_by_its_maker(student_file, maker, waveform, tmp_path, monkeypatch) -> None:
    first = load_codec(student_file)
    forget(monkeypatch)
    monkeypatch.setenv("HALLE_CODECS", f"another:one, {maker}")
    for path in (student_file, tmp_path / "run"):
        again = load_codec(path)
        assert codec_fingerprint(again) == codec_fingerprint(first)
        for name, codes in first.encode(waveform).items():
            assert torch.equal(again.encode(waveform)[name], codes), name
    assert sys.modules["their_codec"].CALLS == [6, 6], "built from the architecture, not from the public weights"
    assert not any("entries" in name for name in again.state_dict()), "of the teacher only what a student trains"


def test_a_checkpoint_alone_imports_nothing(student_file, maker, tmp_path, monkeypatch) -> None:
    forget(monkeypatch)
    for path in (student_file, tmp_path / "run"):
        with pytest.raises(MissingModelError, match=f"needs the code of `{maker}`, which nothing") as caught:
            load_codec(path)
        assert f"HALLE_CODECS={maker} halle" in caught.value.hint
    assert "their_codec" not in sys.modules


@pytest.mark.parametrize("mrvq", [None, MRVQConfig().model_dump()])
def test_a_crafted_checkpoint_runs_nothing(mrvq, maker, monkeypatch) -> None:
    ran = []
    monkeypatch.setattr("os.system", lambda *arguments, **named: ran.append((arguments, named)))
    crafted = {"arch": "foreign", "mrvq": mrvq,
               "foreign": {"maker": "os:system", "architecture": {"command": "echo ran"}, "sample_rate": 24_000,
                           "hop_length": 200, "latent_dim": 6}}  # fmt: skip
    with pytest.raises(MissingModelError, match="`os:system`"):
        build_codec(crafted)
    for name in ("their_codec; echo ran:make", "their_codec:make\n", "a:b && echo ran", "../evil:make"):
        crafted["foreign"]["maker"] = name
        with pytest.raises(UsageError, match=r"foreign\.maker"):
            build_codec(crafted)
    assert ran == [] and "their_codec" not in sys.modules


def test_the_path_of_a_codec_is_no_permission(maker) -> None:
    with pytest.raises(MissingModelError, match="nothing here allows"):
        load_codec(maker)
    assert "their_codec" not in sys.modules


def test_a_longer_name_in_the_variable_allows_no_shorter_one(maker, monkeypatch) -> None:
    monkeypatch.setenv("HALLE_CODECS", f"{maker}_short")
    with pytest.raises(MissingModelError, match="nothing here allows"):
        load_codec(maker)


def test_an_installed_package_is_permission(student_file, maker, waveform, tmp_path, monkeypatch) -> None:
    forget(monkeypatch)
    installed = tmp_path / "code" / "their_codec-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: their-codec\nVersion: 1.0\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text(f"[halle.codecs]\ntheirs = {maker}\n", encoding="utf-8")
    assert load_codec(student_file).encode(waveform)["quant1"].shape == (2, 6, 20)


def test_what_cannot_be_imported_or_made_says_so(maker, monkeypatch) -> None:
    with pytest.raises(MissingModelError, match="no_such_codec") as caught:
        load_teacher("no_such_codec:make")
    assert "PYTHONPATH" in caught.value.hint
    with pytest.raises(UsageError, match="`their_codec` has no `build`"):
        load_teacher("their_codec:build")
    with pytest.raises(MissingModelError, match="could not make its codec: no weights here"):
        load_teacher("their_codec:make_unavailable")


@pytest.mark.parametrize(
    "name, message",
    [("make_number", "expected a torch module from `their_codec:make_number`, got `int`"),
     ("make_short", r"waveform of these latents: expected \[1, 1, 4800\], got `\[1, 1, 4797\]`"),
     ("make_other_entries", "the last partial sum differs")],
)  # fmt: skip
def test_a_codec_that_breaks_the_contract_is_refused(name, message, maker) -> None:
    with pytest.raises(UsageError, match=message):
        load_teacher(f"their_codec:{name}")


@pytest.mark.parametrize(
    "name, doing, kind",
    [("Autoencoder", "making its codec: TypeError", TypeError),
     ("make_failing", "coding a little noise: ZeroDivisionError: of theirs", ZeroDivisionError)],
)  # fmt: skip
def test_what_their_code_raises_is_no_bug_of_ours_and_stays_the_cause(name, doing, kind, maker) -> None:
    with pytest.raises(UsageError, match=f"`their_codec:{name}` failed at {doing}") as caught:
        load_teacher(f"their_codec:{name}")
    assert isinstance(caught.value.__cause__, kind) and "--debug" in caught.value.hint


def test_a_module_that_does_not_compile_is_no_bug_of_ours(maker, tmp_path) -> None:
    (tmp_path / "code" / "their_codec.py").write_text("x = = 1", encoding="utf-8")
    with pytest.raises(UsageError, match="failed at being imported: SyntaxError"):
        load_teacher(maker)


def test_a_codec_that_lacks_parts_names_all_of_them(maker) -> None:
    with pytest.raises(UsageError, match="lacks `sample_rate`, `hop_length`, `latent_dim`"):
        load_teacher("torch.nn:Identity")


def test_a_foreign_codec_cannot_be_chosen_to_be_trained() -> None:
    with pytest.raises(UsageError, match="not chosen"):
        resolve("train-codec", options={"codec.arch": "foreign"})


def test_our_own_codecs_are_described_as_before() -> None:
    assert "foreign" not in CodecConfig().described()
    assert "seanet" in CodecConfig().described() and "spectral" not in CodecConfig().described()
