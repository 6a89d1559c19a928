"""What counts as a process's own time, on a made-up machine whose history is known."""

import pytest

from qrpo_lib.rewards.sandbox import clock

LIMIT = 1.0
IDLE = LIMIT * clock.ALLOWANCE * clock.IDLE_LIMITS


class Machine:
    """A process with threads, told what happened to it since the last look."""

    def __init__(self, monkeypatch):
        self.now, self.computed, self.queued = 100.0, 3.0, {"1": 7.0}
        monkeypatch.setattr(clock.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(clock, "_computed", lambda pid: self.computed)
        monkeypatch.setattr(clock, "_queued", lambda pid: dict(self.queued))
        monkeypatch.setattr(clock, "slowness", lambda: 1.0)
        self.clock = clock.Clock(1, LIMIT)
        assert not self.clock.is_over()

    def look(self, seconds=clock.LOOK_SECONDS, *, computed=0.0, **queued):
        self.now += seconds
        self.computed += computed
        for thread, waited in queued.items():
            thread = thread.removeprefix("t")
            self.queued[thread] = self.queued.get(thread, 0.0) + waited
        return self.clock.is_over()


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_idling_is_charged(machine):
    looks = 0
    while not machine.look():
        looks += 1
    assert looks * clock.LOOK_SECONDS == pytest.approx(IDLE, abs=0.2)
    assert machine.clock.spent == pytest.approx(IDLE, abs=0.2)


def test_computing_is_charged(machine):
    looks = 0
    while not machine.look(computed=clock.LOOK_SECONDS):
        looks += 1
    assert looks * clock.LOOK_SECONDS == pytest.approx(LIMIT * clock.ALLOWANCE, abs=0.1)


def test_waiting_for_a_processor_is_free_although_it_is_told_afterwards(machine):
    """The kernel adds a wait to its account when it ends: here it lasts for longer than the limits on idling."""
    for _ in range(10):
        for _ in range(100):
            assert not machine.look()
        assert not machine.look(computed=0.01, t1=101 * clock.LOOK_SECONDS - 0.01)
        assert machine.clock.spent < 0.2
    assert machine.clock.spent == pytest.approx(0.1, abs=0.02)


def test_a_wait_that_ends_with_the_answer_is_taken_back(machine):
    for _ in range(100):
        machine.look()
    machine.now += clock.LOOK_SECONDS
    machine.computed += 0.01
    machine.queued["1"] += 101 * clock.LOOK_SECONDS
    assert not machine.clock.is_used_up()
    assert machine.clock.spent < 0.02


def test_waiting_of_another_thread_is_free_too(machine):
    """The main thread sleeps until another has computed, which has to wait for its turn."""
    for _ in range(2000):
        assert not machine.look(computed=0.0005, t2=clock.LOOK_SECONDS - 0.0005)
    assert machine.clock.spent == pytest.approx(1.0, abs=0.05)


def test_a_thread_that_ends_gives_nothing_back(machine):
    machine.look(t2=0.04)
    del machine.queued["2"]
    before = machine.clock.spent
    machine.look()
    assert machine.clock.spent == pytest.approx(before + clock.LOOK_SECONDS, abs=1e-6)


def test_this_sides_own_delay_is_not_charged(machine):
    for _ in range(100):
        assert not machine.look(5.0)
    assert machine.clock.spent <= 100 * 2 * clock.LOOK_SECONDS + 1e-9


def test_waiting_pays_for_no_idling_to_come(machine):
    machine.look(5.0, t1=5.0)
    machine.look(5.0, t1=5.0)
    looks = 0
    while not machine.look():
        looks += 1
    assert looks * clock.LOOK_SECONDS == pytest.approx(IDLE, abs=0.2)
