"""What all tests share: bounded threads, deterministic hypothesis, run folders that are thrown away."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Bytes are compared between processes, none of which may choose another library because the machine was busy.
os.environ.setdefault("QRPO_PRODUCTS", "torch")

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair.
slow = [HealthCheck.too_slow]
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=slow)
settings.load_profile("suite")


@pytest.fixture
def tokenizer():
    from small_llama import made_up_tokenizer  # here: most tests do without torch

    return made_up_tokenizer()


@pytest.fixture
def runs_folder(tmp_path, monkeypatch):
    """An empty folder that all run folders of the test, and of the processes it starts, go to."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("QRPO_RUNS", str(folder))
    return folder


@pytest.fixture(scope="session")
def kernel_servers():
    """The processes that fork the kernels of all tests of one process, as `kernels` keeps them; none is left behind."""
    running = {}
    yield running
    for server in running.values():
        server.process.kill()
        server.process.wait()


@pytest.fixture
def forked_kernels(monkeypatch, kernel_servers):
    """Kernels start as under `qrpo reproduce`: forked, in a moment, from a process that serves all tests."""
    from qrpo_lib.suite import kernel_server, kernels

    monkeypatch.setenv(kernel_server.WANTED, "1")
    monkeypatch.setattr(kernels, "_SERVERS", kernel_servers)
    return kernel_servers


@pytest.fixture
def hub_profile(tmp_path, monkeypatch):
    """The file of a profile with policy, data and reward of the hub, of which local copies are there."""
    import datasets
    from hub_copies import chat_model, ultrafeedback

    copies = tmp_path / "copies"
    ultrafeedback(copies / "HuggingFaceH4" / "ultrafeedback_binarized")
    chat_model(copies / "owner" / "model")
    monkeypatch.setenv("QRPO_DATA", str(copies))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "hub.toml"
    shutil.copy(Path(__file__).parent / "data" / "hub_policy.toml", path)
    return path


@pytest.fixture(scope="session")
def smallest_policy(tmp_path_factory):
    """The run folder of the initial policy of tests/data/smallest.toml, made once in each test process; link to it."""
    from qrpo_lib.profiles import settings as profiles
    from qrpo_lib.steps import initial_policy

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QRPO_RUNS", str(tmp_path_factory.mktemp("smallest_policy")))
        return initial_policy.run(profiles.load(Path(__file__).parent / "data" / "smallest.toml"))


@pytest.fixture(scope="module")
def shared_runs(smallest_policy, tmp_path_factory):
    """Run folders that all tests of a module share; only the initial policy of `smallest.toml` is there at first."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / smallest_policy.name).symlink_to(smallest_policy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QRPO_RUNS", str(folder))
        yield folder
