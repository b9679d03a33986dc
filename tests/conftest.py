"""A whole chain at the smallest size, made once a test process from the speech that ships with the project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_stand_in import TOKEN, Hub, hub_running
from no_network import blocked_network
from tiny_chain import Chain, make_chain, make_recordings
from tiny_tokens import tiny_tokens


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two test processes share two cores; one thread also makes forked children safe."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Everything works without a network: only this machine itself can be reached."""
    with blocked_network():
        yield


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """A small audio folder of real (synthetic) speech with transcripts."""
    return make_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="session")
def chain(recordings, tmp_path_factory) -> Chain:
    """Run every stage up to a packed model. Its tests must not change what it holds."""
    return make_chain(recordings, tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="session")
def halle_tokens(tmp_path_factory):
    """A token store of a multi-resolution codec, and the codec."""
    return tiny_tokens(tmp_path_factory.mktemp("halle"), "halle")


@pytest.fixture(scope="session")
def valle_tokens(tmp_path_factory):
    """A token store of a plain codec, and the codec."""
    return tiny_tokens(tmp_path_factory.mktemp("valle"), "valle")


@pytest.fixture(scope="session")
def speaking_model(tmp_path_factory) -> Path:
    """A model folder, untrained. Its tests must not change what it holds."""
    from tiny_model_folder import tiny_model_folder

    return tiny_model_folder(tmp_path_factory.mktemp("speaking") / "model", "cc-by-4.0")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A hub on this machine, a token for it and an empty cache, for this process and those that it starts."""
    from huggingface_hub import constants

    from stages.artifacts.model_hub import fetch_model

    with hub_running() as running:
        home, address = tmp_path / "hub-home", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        settings = {"ENDPOINT": running.url, "HUGGINGFACE_CO_URL_TEMPLATE": address, "HF_HUB_CACHE": str(home / "hub"),
                    "HF_TOKEN_PATH": str(home / "token"), "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HALLE_MODEL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"HF_ENDPOINT": running.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN,
                            "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}.items():
            monkeypatch.setenv(name, value)
        fetch_model.cache_clear()
        yield running
    fetch_model.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def warnings_of_encodings_stay_here():
    """This interpreter has read the variable; processes that tests start shall not tell of other people's code."""
    import os

    os.environ.pop("PYTHONWARNDEFAULTENCODING", None)
