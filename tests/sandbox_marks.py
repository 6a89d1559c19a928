"""What tests of the sandbox share: which isolations work here, and the processes that a judge has started."""

from pathlib import Path

import pytest

from qrpo_lib.rewards.sandbox import sandbox


def problem(kind):
    """Why an isolation cannot be tested here, None if it can."""
    try:
        return None if sandbox.works(kind) else f"a solution does not run in the isolation '{kind}'"
    except RuntimeError as error:
        return str(error)


PROBLEMS = {kind: problem(kind) for kind in ("bubblewrap", "limits")}


@pytest.fixture(params=["bubblewrap", "limits"])
def isolation(request):
    if PROBLEMS[request.param]:
        pytest.skip(PROBLEMS[request.param])
    return request.param


def survivors(judge):
    """Ids of the processes below a judge's that run the sandbox's worker."""
    parents, workers = {}, set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            if b"worker.py" in (folder / "cmdline").read_bytes() and fields[0] != b"Z":
                workers.add(int(folder.name))
        except OSError:
            continue

    def is_below(pid):
        while pid > 1:
            pid = parents.get(pid, 0)
            if pid == judge:
                return True
        return False

    return {pid for pid in workers if is_below(pid)}


def descendants(pid):
    """Ids of the processes that a process has started, and of those that they have started."""
    found = []
    try:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):  # each thread has its own
            for child in path.read_text().split():
                found += [int(child), *descendants(int(child))]
    except OSError:
        pass
    return found


def outcomes(solution, tests, **options):
    """The outcome of each test."""
    return list(sandbox.run_tests(solution, tests, **options).outcomes)
