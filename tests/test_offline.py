"""Without a network: nothing asks for one, and what is missing is named with what brings it here."""

from __future__ import annotations

import socket
import time

import pytest
from no_network import blocked_network

from stages.errors import HalleError, MissingModelError
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


def missing_models(tmp_path):
    yield "hubert", lambda: load_hubert("facebook/hubert-base-ls960", 9), ("hubert-base-ls960", "hf download")
    yield "whisper", lambda: load_transcriber("openai/whisper-large-v3"), ("whisper-large-v3", "hf download")


@pytest.mark.parametrize("name", ["hubert", "whisper"])
def test_missing_weights_are_named_with_the_command_that_fetches_them_and_nobody_waits(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    load, told = {name: (load, told) for name, load, told in missing_models(tmp_path)}[name]
    started = time.process_time()
    with blocked_network(), pytest.raises(HalleError) as caught:
        load()
    assert isinstance(caught.value, MissingModelError) and caught.value.exit_code == 7
    assert told[0] in caught.value.message and told[1] in caught.value.hint
    assert time.process_time() - started < 10, "nobody waits; computing, since a machine at work is slow"
