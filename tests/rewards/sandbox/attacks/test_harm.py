"""Attacks that would harm the host, the sandbox or the next solution, one a test."""

import os
import socket
from pathlib import Path

import pytest

from qrpo_lib.rewards.sandbox import sandbox

FAILED = ["failed"] * 3
ERROR = ["error"] * 3
SECOND = "def f(x):\n    if x == 2:\n        {}\n    return x + 10\n"


def second(statement):
    """A right solution that attacks in its second test."""
    return SECOND.format(statement.strip().replace("\n", "\n        "))


# --- time ------------------------------------------------------------------------------------------------------------


def test_infinite_loop_costs_its_test_alone(attack):
    assert attack(second("while True: pass")) == ["passed", "timeout", "passed"]


def test_infinite_loop_at_load(attack):
    assert attack("while True: pass") == ["timeout"] * 3


@pytest.mark.slow
def test_loop_that_catches_every_exception(attack):
    loop = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    assert attack(second(loop)) == ["passed", "timeout", "passed"]


@pytest.mark.slow
def test_loop_inside_c_code(attack):
    assert attack(second("sum(range(10 ** 12))")) == ["passed", "timeout", "passed"]


@pytest.mark.slow
def test_catastrophic_regular_expression(attack):
    assert attack(second("import re\nre.match('(a+)+$', 'a' * 60 + 'b')")) == ["passed", "timeout", "passed"]


@pytest.mark.slow
def test_sleep(attack):
    assert attack(second("import time\ntime.sleep(1e6)"), seconds=0.1) == ["passed", "timeout", "passed"]


@pytest.mark.slow
def test_answer_that_trickles(attack):
    """A byte now and then, of an answer that would take days."""
    trickle = """
import os, sys, time
channel = 4
os.write(channel, (1 << 15).to_bytes(4, 'big'))
while True:
    time.sleep(0.01)
    os.write(channel, b' ')
"""
    assert attack(second(trickle), seconds=0.1) == ["passed", "timeout", "passed"]


@pytest.mark.slow
def test_deadlock(attack):
    lock = "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()"
    assert attack(second(lock), seconds=0.1) == ["passed", "timeout", "passed"]


@pytest.mark.slow
def test_threads_share_one_limit(attack):
    threads = """
import threading
def spin():
    while True: pass
for _ in range(3): threading.Thread(target=spin).start()
"""
    assert attack(second(threads + "spin()")) == ["passed", "timeout", "passed"]


def test_alarm_and_timers(attack):
    timer = "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\nsignal.alarm(1)\nwhile True: pass"
    first, attacked, last = attack(second(timer))
    assert (first, last) == ("passed", "passed")
    assert attacked in ("timeout", "crashed")


def test_alarm_handler_that_raises_later(attack):
    source = """
import signal, time
def handler(*_): raise RuntimeError
signal.signal(signal.SIGALRM, handler)
""" + second("signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)")
    first, attacked, last = attack(source)
    assert first == "passed"
    assert attacked in ("passed", "error", "crashed")
    assert last in ("passed", "error", "crashed")


@pytest.mark.slow
def test_signals_blocked_and_ignored(attack):
    block = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
for number in (1, 2, 3, 14, 15, 24): signal.signal(number, signal.SIG_IGN)
while True: pass
"""
    assert attack(second(block)) == ["passed", "timeout", "passed"]


# --- processes and threads -------------------------------------------------------------------------------------------


def test_fork_bomb(attack):
    assert attack(second("import os\nwhile True: os.fork()")) == ["passed", "error", "passed"]


def test_fork_bomb_from_c(attack):
    bomb = """
import ctypes
libc = ctypes.CDLL(None)
assert libc.fork() == -1 and libc.vfork() == -1
assert libc.syscall(435, 0, 0) == -1
assert libc.syscall({'x86_64': 56}.get(__import__('os').uname().machine, 220), 17, 0, 0, 0, 0) == -1
"""
    assert attack(second(bomb)) == ["passed", "passed", "passed"]


def test_subprocess(attack):
    start = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'pass'])"
    assert attack(second(start)) == ["passed", "error", "passed"]


def test_another_program_in_place_of_this_one(attack):
    assert attack(second("import os, sys\nos.execv(sys.executable, ['python'])")) == ["passed", "error", "passed"]


def test_multiprocessing(attack):
    start = "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()"
    assert attack(second(start)) == ["passed", "error", "passed"]


@pytest.mark.slow
def test_thread_bomb(attack):
    bomb = """
import _thread, time
_thread.stack_size(32768)
while True:
    try: _thread.start_new_thread(time.sleep, (1e6,))
    except RuntimeError: pass
"""
    first, attacked, last = attack(second(bomb), seconds=1)
    assert (first, last) == ("passed", "passed")
    assert attacked in ("crashed", "timeout", "memory")


def test_thread_that_outlives_its_test(attack):
    source = """
import threading, time
def later():
    while True: time.sleep(0.01)
""" + second("threading.Thread(target=later).start()")
    assert attack(source) == ["passed", "passed", "passed"]


def test_thread_that_answers_in_the_main_threads_place(forgery):
    source = """
import os, threading
def answer():
    while True:
        for descriptor in range(3, 64):
            try: os.write(descriptor, b'\\x00\\x00\\x00\\x0f{"values": [1]}')
            except OSError: pass
threading.Thread(target=answer, daemon=True).start()
def f(x): return None
"""
    assert "passed" not in forgery(source)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_bomb(attack):
    assert attack(second("[0] * 10 ** 10")) == ["passed", "memory", "passed"]


def test_slow_memory_bomb(attack):
    bomb = "kept = []\nwhile True: kept.append(bytes(10 ** 7))"
    assert attack(second(bomb), seconds=2) == ["passed", "memory", "passed"]


def test_mapped_memory(attack):
    assert attack(second("import mmap\nmmap.mmap(-1, 1 << 34)")) == ["passed", "error", "passed"]


def test_memory_outside_the_process(attack):
    assert attack(second("import os\nos.memfd_create('attack')")) == ["passed", "error", "passed"]


def test_recursion(attack):
    assert attack(second("f(2)")) == ["passed", "error", "passed"]


@pytest.mark.slow
def test_recursion_without_a_limit(attack):
    source = "import sys\nsys.setrecursionlimit(10 ** 9)\n" + second("return f(x)")
    first, attacked, last = attack(source, seconds=0.5)
    assert (first, last) == ("passed", "passed")
    assert attacked in ("memory", "crashed", "timeout")


def test_limits_cannot_be_raised(attack):
    raise_ = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"
    assert attack(second(raise_)) == ["passed", "error", "passed"]


# --- output and files ------------------------------------------------------------------------------------------------


def test_huge_output(attack):
    assert attack(second("for _ in range(20): print('x' * 10 ** 6)")) == ["passed", "passed", "passed"]


def test_huge_return_value(attack):
    assert attack(second("return 'x' * (24 << 20)"), seconds=2) == ["passed", "failed", "passed"]


def test_endless_return_value(attack):
    source = "import itertools\ndef f(x): return itertools.count()\n"
    assert attack(source) == FAILED


def test_disk_filling(attack):
    fill = """
for i in range(100):
    with open(f'/tmp/attack{i}', 'wb') as file: file.write(bytes(1 << 20))
"""
    assert attack(second(fill), seconds=1) == ["passed", "error", "passed"]


def test_countless_empty_files(bubblewrap):
    source = """
def f(x):
    n = 0
    while x == 2:
        open(f'/tmp/attack{n}', 'w').close()
        n += 1
    return x
"""
    tests = [f"assert f({x}) == {x}" for x in (1, 2, 3)]
    result = sandbox.run_tests(source, tests, seconds_per_test=5, isolation=bubblewrap)
    assert result.outcomes == ("passed", "error", "passed")
    assert "No space left on device" in result.details[1]


def test_one_huge_file(attack):
    fill = "with open('/tmp/attack', 'wb') as file:\n    file.seek(1 << 40)\n    file.write(b'x')\n    file.flush()"
    assert attack(second(fill)) == ["passed", "error", "passed"]


def test_no_place_but_tmp_can_be_written(judged, bubblewrap):
    source = """
import os
def f(x):
    found = []
    for folder, _, _ in os.walk('/'):
        try: open(folder + '/attack', 'w').close()
        except OSError: continue
        found.append(folder)
    return found
"""
    assert judged(source, ["assert f(1) == ['/tmp']"], bubblewrap, seconds=10) == ["passed"]


def test_temporary_files_do_not_reach_the_next_solution(bubblewrap):
    leave = "def f(x):\n    open('/tmp/attack', 'w').write('x')\n    return 1\n"
    look = "import os\ndef f(x): return os.listdir('/tmp')\n"
    left, seen = sandbox.run_many([(leave, ["assert f(1) == 1"]), (look, ["assert f(1) == []"])], processes=1)
    assert (left.outcomes, seen.outcomes) == (("passed",), ("passed",))


def test_writing_and_deleting_the_hosts_files(attack, host):
    canary, _ = host
    folder = Path(sandbox.__file__).parent
    source = f"""
import os, shutil
def f(x):
    for path in ({str(canary)!r}, {str(folder / "worker.py")!r}, '/worker.py', os.__file__):
        for change in (
            lambda: open(path, 'w'), lambda: open(path, 'ab'), lambda: os.remove(path), lambda: os.truncate(path, 0),
            lambda: os.rename(path, path + '2'), lambda: os.chmod(path, 0), lambda: os.utime(path),
            lambda: os.symlink('/', path + '3'), lambda: os.link(path, path + '4'), lambda: os.mkdir(path + '5'),
        ):
            try: change()
            except OSError: continue
            return 'changed ' + path
    shutil.rmtree({str(canary.parent)!r}, ignore_errors=True)
    return x + 10
"""
    assert attack(source) == ["passed"] * 3


def test_reading_the_hosts_files(judged, bubblewrap, host):
    canary, _ = host
    source = f"""
import os
def f(x):
    paths = ['/etc/passwd', '/etc/hostname', '/proc/1/environ', '/proc/self/maps', '/dev/mem', '/root/.ssh',
             '/home', '/sys', '/var', {str(canary)!r}, {str(Path(__file__))!r}]
    return [path for path in paths if os.path.exists(path)]
"""
    assert judged(source, ["assert f(1) == []"], bubblewrap) == ["passed"]


def test_installed_packages_with_their_data_are_out_of_sight(judged, isolation):
    source = """
def f(name):
    try: __import__(name)
    except ImportError: return 'absent'
    return 'present'
"""
    tests = [f"assert f({name!r}) == 'absent'" for name in ("qrpo_lib", "numpy", "torch", "pytest")]
    assert judged(source, [*tests, "assert f('sortedcontainers') == 'present'"], isolation) == ["passed"] * 5


def test_reading_the_environment(judged, isolation):
    assert os.environ["HF_TOKEN"] == "secret-of-the-host"
    source = "import os\ndef f(x): return sorted(os.environ.values())\n"
    assert judged(source, ["assert 'secret-of-the-host' in f(1)", "assert len(f(1)) < 8"], isolation) == [
        "failed",
        "passed",
    ]


def test_the_command_line_tells_nothing(forgery):
    assert forgery("import sys\ndef f(x): return [v for v in sys.argv + sys.orig_argv if 'right' in v]\n") == FAILED


# --- network and other processes -------------------------------------------------------------------------------------


def test_network(attack):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(0.2)
        connect = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)"
        assert attack(second(connect)) == ["passed", "error", "passed"]
        with pytest.raises(TimeoutError):
            server.accept()


def test_local_sockets(attack):
    connect = "import socket\nsocket.socket(socket.AF_UNIX).connect('/run/dbus/system_bus_socket')"
    assert attack(second(connect)) == ["passed", "error", "passed"]


def test_downloading(attack):
    assert attack(second("import urllib.request\nurllib.request.urlopen('http://1.1.1.1', timeout=1)"), seconds=2) == [
        "passed",
        "error",
        "passed",
    ]


def test_killing_the_parent(attack):
    assert attack(second("import os\nos.kill(os.getppid(), 9)")) == ["passed", "error", "passed"]


def test_killing_everyone(attack):
    assert attack(second("import os\nos.kill(-1, 9)")) == ["passed", "error", "passed"]


def test_killing_from_c(attack, host):
    _, process = host
    kill = f"""
import ctypes
libc = ctypes.CDLL(None)
assert libc.kill({process.pid}, 9) == libc.kill(0, 9) == libc.kill(1, 9) == libc.killpg(0, 9) == -1
"""
    assert attack(second(kill)) == ["passed", "passed", "passed"]


def test_tracing_and_limiting_other_processes(attack, host):
    _, process = host
    trace = f"""
import ctypes, resource
assert ctypes.CDLL(None).ptrace(16, {process.pid}, 0, 0) == -1
resource.prlimit({process.pid}, resource.RLIMIT_CPU, (0, 0))
"""
    assert attack(second(trace)) == ["passed", "error", "passed"]


def test_slowing_other_processes_down(attack, host):
    _, process = host
    before = os.getpriority(os.PRIO_PROCESS, process.pid), os.sched_getaffinity(process.pid)
    slow = f"""
import os
for change in (
    lambda: os.setpriority(os.PRIO_PROCESS, {process.pid}, 19), lambda: os.setpriority(os.PRIO_USER, 0, 19),
    lambda: os.sched_setaffinity({process.pid}, [0]),
    lambda: os.sched_setscheduler({process.pid}, os.SCHED_IDLE, os.sched_param(0)),
):
    try: change()
    except OSError: pass
"""
    assert attack(second(slow)) == ["passed", "passed", "passed"]
    assert (os.getpriority(os.PRIO_PROCESS, process.pid), os.sched_getaffinity(process.pid)) == before


def test_outliving_the_parent(attack):
    """Were it allowed, the process could ask not to be ended with this one."""
    stay = "import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == -1\nwhile True: pass"
    assert attack(second(stay)) == ["passed", "timeout", "passed"]


def test_new_namespaces_and_mounts(attack):
    mount = """
import ctypes
libc = ctypes.CDLL(None)
assert libc.unshare(0x10000000) == -1
assert libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == -1
assert libc.chroot(b'/') == -1 and libc.setuid(4242) == -1
"""
    assert attack(second(mount)) == ["passed", "passed", "passed"]


# --- endings ---------------------------------------------------------------------------------------------------------


def test_os_exit_costs_its_test_alone(attack):
    assert attack(second("import os\nos._exit(0)")) == ["passed", "crashed", "passed"]


def test_os_exit_at_load(attack):
    assert attack("import os\nos._exit(0)") == ["crashed"] * 3


def test_sys_exit_in_a_test(attack):
    assert attack(second("import sys\nsys.exit(0)")) == ["passed", "error", "passed"]


def test_sys_exit_at_load(attack):
    assert attack("import sys\nsys.exit(0)") == ERROR


def test_keyboard_interrupt_and_generator_exit(attack):
    assert attack("def f(x): raise (KeyboardInterrupt, GeneratorExit, BaseException)[x - 1]") == ERROR


def test_segmentation_fault(attack):
    assert attack(second("import ctypes\nctypes.string_at(0)")) == ["passed", "crashed", "passed"]


def test_abort(attack):
    assert attack(second("import os\nos.abort()")) == ["passed", "crashed", "passed"]


def test_watchdog_that_ends_the_process(attack):
    watchdog = "import faulthandler, time\nfaulthandler.dump_traceback_later(0.01, exit=True)\nwhile True: pass"
    assert attack(second(watchdog)) == ["passed", "crashed", "passed"]


def test_exit_handlers_and_finalizers(forgery):
    source = """
import atexit, os, weakref
class Last:
    def __del__(self): os.write(1, b'passed')
kept = Last()
atexit.register(print, 'passed')
def f(x): raise SystemExit
"""
    assert forgery(source) == ERROR


def test_exception_with_hostile_text(attack):
    source = """
class Hostile(Exception):
    def __str__(self):
        if mode == 1: raise SystemExit
        return 'x' * 10 ** 7
def f(x):
    global mode
    mode = x
    raise Hostile
"""
    assert attack(source) == ERROR


def test_source_that_is_no_source(attack):
    assert attack("def f(x:") == ERROR
    assert attack("x = '\x00'") == ERROR
    assert attack("x = '\ud800'") == ERROR
    assert attack("(" * 10_000) == ERROR


def test_closed_file_descriptors(attack):
    assert attack(second("import os\nos.closerange(0, 64)")) == ["passed", "crashed", "passed"]


@pytest.mark.slow
def test_channel_that_nobody_reads(judged, isolation):
    """A question longer than a pipe holds, to a process that does not listen."""
    source = """
import os, threading, time
def f(x):
    if x == [1]: threading.Thread(target=time.sleep, args=(1e6,)).start()
    while x == [2]: time.sleep(1e6)
    return x + 10
"""
    long = f"assert f([2] or {list(range(100_000))}) == 1"
    assert judged(source, [long, "assert f(1) == 11"], isolation, seconds=0.1) == ["timeout", "passed"]


def test_hash_seed_and_random_state_are_nobodys_business(attack):
    source = "import random, sys\nrandom.seed(0)\nsys.setswitchinterval(1e-6)\n" + second("pass")
    assert attack(source, seconds=1) == ["passed"] * 3


def test_gc_that_is_frozen_and_off(attack):
    assert attack("import gc\ngc.disable()\ngc.freeze()\n" + second("pass")) == ["passed"] * 3
