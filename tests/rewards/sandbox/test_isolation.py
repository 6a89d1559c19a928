"""The guard around expected values; what keeps a solution in is tested by attacks (`attacks/`)."""

import ctypes
import threading

from qrpo_lib.rewards.sandbox import isolation

_PR_GET_DUMPABLE = 3


def is_readable():
    return ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 1


def test_memory_is_unreadable_until_the_last_of_several_threads_is_done():
    before, entered, leave = is_readable(), threading.Event(), threading.Event()

    def other():
        with isolation.unreadable():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with isolation.unreadable():
        assert not is_readable()
        thread.start()
        entered.wait()
    assert not is_readable()
    leave.set()
    thread.join()
    assert is_readable() == before
