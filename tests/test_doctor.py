"""`halle doctor`: it says what is here and what is missing, and notices a device that computes otherwise."""

import json
import shutil

import pytest
import torch

from halle_cli.app import app
from stages import doctor
from stages.errors import HalleError, UsageError
from stages.synthesis import device_comparison
from stages.synthesis.device_comparison import compare, results_on

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def on_cpu() -> dict[str, torch.Tensor]:
    return results_on(CPU)


def test_the_report_covers_versions_devices_extras_disk_caches_and_models(capsys):
    with pytest.raises(SystemExit) as end:
        app(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert found["packages"]["torch"] == torch.__version__.split("+")[0] and found["machine"]["memory_gb"] > 0
    assert found["devices"]["cpu"] and "cuda" in str(found["devices"]) and found["disk"]["here"]
    assert found["extras"]["dev"] == "installed" and {"hub", "torch", "shipped"} == set(found["caches"])
    assert all(model["here"] == (not model["needs"]) for model in found["models"]) and len(found["models"]) > 8


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr(doctor, "_is_installed", lambda package: package != "pesq")
    assert doctor.extras()["pesq"] == "lacks pesq: pip install 'halle[pesq]'"
    assert doctor.extras()["av"] == "installed"


def test_a_missing_model_of_the_hub_says_how_to_fetch_it(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = {model["name"]: model for model in doctor.run()["models"]}
    assert "hf download facebook/hubert-base-ls960" in found["facebook/hubert-base-ls960"]["needs"]
    assert found["microsoft/wavlm-base-plus-sv"]["size"] == "405 MB"


def test_little_space_is_warned_of(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 10**9))
    assert "less than 10 GB" in doctor.run()["warnings"][0]


def test_the_tiny_models_compute_the_same_twice_and_leave_the_random_state_alone(on_cpu):
    before = torch.get_rng_state()
    assert all(each.difference == 0 for each in compare(on_cpu, results_on(CPU)))
    assert torch.equal(before, torch.get_rng_state())
    assert all(tensor.abs().max() > 0 for tensor in on_cpu.values())


@pytest.mark.parametrize("spoil", [lambda x: x * 1.1, lambda x: x * float("nan"), lambda x: x[..., :-1]])
def test_a_device_that_computes_otherwise_is_named(on_cpu, monkeypatch, spoil):
    wrong = {**on_cpu, "AR gradient": spoil(on_cpu["AR gradient"])}
    assert [each.what for each in compare(on_cpu, wrong) if not each.agrees] == ["AR gradient"]
    results = iter([on_cpu, wrong])
    monkeypatch.setattr(device_comparison, "results_on", lambda device: next(results))
    with pytest.raises(HalleError, match="`cpu` does not compute what the CPU does: `AR gradient`"):
        doctor.run("cpu")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="not available"):
        doctor.run("cuda" if not torch.cuda.is_available() else "mps")
