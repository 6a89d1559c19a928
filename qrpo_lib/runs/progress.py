"""Progress of long work: `report(done, total, text)` to whoever watches, `qrpo reproduce` or a person in a notebook.

Under `qrpo reproduce` the state goes to the file `$QRPO_STATUS`, from which its progress bar reads; elsewhere a tqdm
bar shows it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Report = Callable[[float, int, str], None]
_SECONDS_BETWEEN_WRITES = 0.2


@contextmanager
def bar(text: str) -> Iterator[Report]:
    """Context that yields `report(done, total, detail)`; `text` says what is being done.

    `done` may count a part of what is under way: 3.25 of 10 models.
    """
    path = os.environ.get("QRPO_STATUS")
    if path:
        report = _now_and_then(functools.partial(_write_status, Path(path), text))
        report(0, 1)
        yield report
        return
    from tqdm.auto import tqdm  # here, since many modules import this one

    with tqdm(desc=text, leave=False, dynamic_ncols=True) as shown:

        def show(done: float, total: int, detail: str) -> None:
            shown.n, shown.total = round(done, 2), total
            shown.set_postfix_str(detail, refresh=False)
            shown.refresh()  # `update` waits for whole steps, and the detail may be the only news

        yield _now_and_then(show)


def _now_and_then(show: Report) -> Report:
    """`show`, called only so often, and in the end."""
    last = -_SECONDS_BETWEEN_WRITES

    def report(done: float, total: int, detail: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_WRITES or done >= total:
            last = now
            show(done, total, detail)

    return report


def _write_status(path: Path, text: str, done: float, total: int, detail: str) -> None:
    # Several processes, on several machines, may make one result together: the last one to write is shown.
    temporary = path.with_suffix(f".{socket.gethostname()}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps({"text": text, "done": round(done, 2), "total": total, "detail": detail}))
        temporary.replace(path)
    except OSError:  # a full disk: work goes on as long as it can, and says so itself
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
