# ruff: noqa: E501
"""Solutions that are judged at the same time: none reads another's memory or pipes, with bubblewrap or without."""

import pytest
from sandbox_marks import isolation  # noqa: F401  (a fixture)

from qrpo_lib.rewards.sandbox import sandbox

# f(1) waits for another solution's process, tries to open what is that one's own, and says whether it saw any.
CURIOUS = """
import os, time
OWN = ('mem', 'fd/3', 'fd/4', 'environ', 'maps', 'auxv', 'map_files', 'root', 'cwd', 'exe')
def is_worker(pid):
    with open(f'/proc/{pid}/cmdline', 'rb') as file: return b'sandbox/worker.py' in file.read()
def parent(pid):
    with open(f'/proc/{pid}/stat') as file: return int(file.read().rpartition(')')[2].split()[1])
def f(x):
    seen, got, end = 0, [], time.monotonic() + 10
    if not os.path.exists('/proc'): return [False, []]
    while seen < x and time.monotonic() < end:
        for pid in os.listdir('/proc'):
            try:
                if not pid.isdigit() or int(pid) == os.getpid() or not is_worker(pid) or not is_worker(parent(pid)): continue
            except OSError: continue
            seen += 1
            for what in OWN:
                try:
                    if what in ('map_files', 'root'): os.listdir(f'/proc/{pid}/{what}')
                    elif what in ('cwd', 'exe'): os.readlink(f'/proc/{pid}/{what}')
                    else: os.read(os.open(f'/proc/{pid}/{what}', os.O_RDONLY | os.O_NONBLOCK), 1)
                    got.append(what)
                except OSError as error:
                    if error.errno == 5: got.append(what)  # opened; at address 0 there is nothing
        time.sleep(0.01)
    return [seen >= x, sorted(set(got))]
"""
BUSY = "import time\ndef f(x):\n    time.sleep(3)\n    return x\n"


def test_a_neighbour_cannot_be_read(isolation):  # noqa: F811
    """In bubblewrap's isolation it is not even seen."""
    sees = isolation == "limits"
    curious = (CURIOUS, [f"assert f({x}) == [{sees}, []]" for x in (1, 3)])
    jobs = [curious, (BUSY, ["assert f(1) == 1"] * 2), (BUSY, ["assert f(1) == 1"] * 2)]
    results = sandbox.run_many(jobs, isolation=isolation, processes=3, seconds_per_test=2)
    assert [result.outcomes for result in results] == [("passed", "passed")] * 3, results[0].details


@pytest.mark.parametrize("what", ["open('/proc/self/status').read()", "open('/proc/self/stat').read()"])
def test_what_is_its_own_it_can_still_read(what, isolation):  # noqa: F811
    source = f"def f(x):\n    try: return len({what}) > 10\n    except OSError: return None\n"
    allowed = "True" if isolation == "limits" else "None"
    assert sandbox.run_tests(source, [f"assert f(1) is {allowed}"], isolation=isolation).pass_rate == 1
