"""What work takes: against the operating system's count for work of known length, steps counted once."""

import json
import resource
import subprocess
import sys
import time

import pytest

from qrpo_lib.cluster.task import After, ScheduledTask
from qrpo_lib.cluster.workers import Workers
from qrpo_lib.runs import folders, keys, products, usage
from qrpo_lib.runs.records import RECORD

BUSY = "import time\nwhile time.process_time() < 0.4: pass"


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def burn_as_step(number):
    folders.complete(keys.Step("training", {"number": number}), lambda folder: burn(0.4))


def recorded(folder):
    return json.loads((folder / RECORD).read_text())


def test_processor_seconds_are_of_the_process_and_of_children_that_ended():
    before, own = usage.processor_seconds(), time.process_time()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    burn(0.2)
    assert usage.processor_seconds() - before >= 0.4 + (time.process_time() - own) - 0.01


def test_memory_is_in_mebibytes(monkeypatch):
    monkeypatch.setattr(resource, "getrusage", lambda who: type("Used", (), {"ru_maxrss": 5 * 2**10}))
    assert usage.peak_memory_mb() == 5


def test_what_went_into_steps_is_not_the_processes_own(runs_folder):
    products.in_force()
    before = usage.of_this_process().processor_seconds
    folder = folders.complete(keys.Step("sft", {}), lambda folder: burn(0.5))
    after = usage.of_this_process()
    assert recorded(folder)["processor_seconds"] >= 0.5
    assert after.processor_seconds - before < 0.4  # the rest of `complete`: hashes, the record
    assert after.float32_products == products.in_force()
    assert after.peak_memory_mb > 0


def test_a_step_that_another_one_had_made_is_not_in_the_time_of_that_one(runs_folder):
    inner = keys.Step("chat_data", {})

    def outer(folder):
        folders.complete(inner, lambda folder: burn(0.6))
        burn(0.3)

    clock = time.process_time()
    folder = folders.complete(keys.Step("reference_sampling", {}), outer)
    total = time.process_time() - clock
    seconds = recorded(folder)["processor_seconds"], recorded(inner.folder)["processor_seconds"]
    assert seconds[0] >= 0.3
    assert seconds[1] >= 0.6
    assert sum(seconds) <= total + 0.05


def test_the_steps_of_a_worker_count_where_it_was_given_them(runs_folder):
    workers, before = Workers(1), usage.of_steps()
    tasks = [ScheduledTask(f"task {number}", burn_as_step, (number,)) for number in range(2)]
    try:
        for task in tasks:
            workers.submit([task], After())
            while workers.look([task.name])[task.name][0].state != "ended":
                workers.wait()
            assert workers.outcome(workers.look([task.name])[task.name][0]) == ("success", "")
    finally:
        workers.interrupt()
    records = [recorded(folder) for folder in runs_folder.glob("training-*")]
    assert len(records) == 2
    assert usage.of_steps() - before == pytest.approx(sum(record["processor_seconds"] for record in records))


@pytest.mark.parametrize("noted", [None, "/somewhere/accounts/abc123.jsonl"])
def test_what_is_made_for_a_notebook_names_its_key(monkeypatch, noted):
    monkeypatch.delenv("QRPO_ACCOUNT", raising=False)
    if noted:
        monkeypatch.setenv("QRPO_ACCOUNT", noted)
    assert usage.made_for() == ("abc123" if noted else None)
