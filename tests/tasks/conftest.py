"""Fixtures: the local data, a machine without a network."""

import socket
from pathlib import Path

import datasets
import pytest


@pytest.fixture(scope="session", autouse=True)
def no_cached_results():
    """Tokenizes anew: the cache of `Dataset.map` does not notice a change of a function that the mapped one calls."""
    datasets.disable_caching()
    yield
    datasets.enable_caching()


@pytest.fixture(scope="session")
def data_dir():
    """The folder of GLUE, SQuAD and CoNLL-2003 beside the repository."""
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/data beside the repository")
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Fails whatever opens a connection."""

    def refuse(*args, **options):
        raise AssertionError("this must work without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
