"""Progress of long work: `report(done, total, text)` to whoever watches, `qrpo reproduce` or a person in a notebook.

Under `qrpo reproduce` the state goes to the file `$QRPO_STATUS`, from which its progress bar reads; elsewhere a tqdm
bar shows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Report = Callable[[float, int, str], None]
_SECONDS_BETWEEN_WRITES = 0.2
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


@contextmanager
def bar(text: str) -> Iterator[Report]:
    """Context that yields `report(done, total, detail)`; `text` says what is being done.

    `done` may count a part of what is under way: 3.25 of 10 models.
    """
    path = os.environ.get("QRPO_STATUS")
    if path:
        yield _status_file(Path(path), text)
        return
    from tqdm.auto import tqdm  # here, since many modules import this one

    with tqdm(desc=text, total=1, leave=False, dynamic_ncols=True, bar_format=_FORMAT) as shown:
        last = -_SECONDS_BETWEEN_WRITES

        def report(done: float, total: int, detail: str = "") -> None:
            nonlocal last
            if total != shown.total:
                started = shown.start_t
                shown.reset(total)  # which tells a notebook's bar too how long it is
                shown.start_t = started
            shown.n = round(done, 2)
            shown.set_postfix_str(detail, refresh=False)
            now = time.monotonic()
            if now - last >= _SECONDS_BETWEEN_WRITES or done >= total:
                last = now
                shown.refresh()  # `update` waits for whole steps, and the detail may be the only news

        yield report


def _status_file(path: Path, text: str) -> Report:
    last = 0.0

    def report(done: float, total: int, detail: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_WRITES and done < total:
            return
        last = now
        # Several processes, on several machines, may make one result together: the last one to write is shown.
        temporary = path.with_suffix(f".{socket.gethostname()}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps({"text": text, "done": round(done, 2), "total": total, "detail": detail}))
            temporary.replace(path)
        except OSError:  # a full disk: work goes on as long as it can, and says so itself
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    report(0, 1)
    return report
