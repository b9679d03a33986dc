"""Without a network: nothing asks for one, and what is missing is named with what brings it here."""

from __future__ import annotations

import socket
import time

import pytest
from no_network import blocked_network

from stages.errors import HalleError, MissingModelError
from stages.speech.speaker import load_embedder
from stages.speech.ssl import load_hubert
from stages.speech.transcriber import load_transcriber


def test_only_this_machine_can_be_reached():
    with blocked_network() as asked:
        for reach in (lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
                      lambda: socket.getaddrinfo("huggingface.co", 443)):
            with pytest.raises(OSError, match="network is blocked"):
                reach()
        assert asked == ["192.0.2.1", "huggingface.co"]
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=1).close()


MISSING = {  # what cannot be loaded without a download: how, and what has to be said of it
    "facebook/hubert-base-ls960": (lambda name: load_hubert(name, 9), "378 MB, licence: Apache-2.0"),
    "openai/whisper-large-v3": (load_transcriber, "3.1 GB, licence: Apache-2.0"),
    "facebook/hubert-large-ls960-ft": (load_transcriber, "1.3 GB, licence: Apache-2.0"),
    "microsoft/wavlm-base-plus-sv": (load_embedder, "405 MB, licence: see its model card"),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_weights_are_named_with_size_licence_and_the_command_that_fetches_them(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    load, told = MISSING[name]
    started = time.process_time()
    with blocked_network(), pytest.raises(HalleError) as caught:
        load(name)
    assert isinstance(caught.value, MissingModelError) and caught.value.exit_code == 7
    assert name.partition("/")[2] in caught.value.message
    assert f"hf download {name}" in caught.value.hint and told in caught.value.hint
    assert time.process_time() - started < 10, "nobody waits; computing, since a machine at work is slow"
