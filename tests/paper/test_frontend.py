"""Figures in notebooks: the picture with its numbers folded under it, and what only a person at a kernel is shown."""

import re
import sys

import pandas as pd
import pytest
from jupyter_client.manager import KernelManager

from qrpo_lib.paper import frontend
from qrpo_lib.runs import paths
from qrpo_lib.suite.kernels import OwnKernelManager

SAVE = """
%matplotlib inline
import pandas as pd
from matplotlib import pyplot as plt
from qrpo_lib.paper import style

figure, axis = plt.subplots()
axis.plot([1, 2], [3, 4])
style.save(figure, "line", pd.DataFrame({"x": [1, 2], "y": [3.25, 4.5]}), "some figures");
"""
SLIDER = """
%matplotlib inline
from matplotlib import pyplot as plt
from qrpo_lib.suite import play

def draw(value):
    drawn.append(value)
    return plt.subplots()[0]

drawn = []
play.slider(draw, "n", [1, 3, 10], start=3)
print(drawn)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """Runs code in a kernel as a frontend does; returns the (kind, data) of its outputs."""
    root = str(paths.PACKAGE.parent)
    manager = KernelManager()
    manager._kernel_spec = OwnKernelManager().kernel_spec  # of this Python, whatever kernels are installed
    manager.start_kernel(cwd=str(tmp_path_factory.mktemp("there")))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=900)

    def run(code, allow_stdin):
        seen = []

        def hear(message):
            content = message["content"]
            assert message["msg_type"] != "error", content["evalue"]
            if message["msg_type"] in ("display_data", "execute_result"):
                seen.append(content["data"])
            elif message["msg_type"] == "stream" and content["name"] == "stdout":
                seen.append({"stdout": content["text"]})

        client.execute_interactive(code, allow_stdin=allow_stdin, output_hook=hear, timeout=900)
        return seen

    run(f"import sys; sys.path.insert(0, {root!r})", False)
    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def cells(html):
    rows = re.findall("<tr.*?</tr>", html, re.DOTALL)
    return [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


@pytest.mark.slow
def test_a_saved_figure_is_shown_once_with_its_numbers_under_it(kernel):
    for live in (False, True):
        picture, numbers = kernel(SAVE, allow_stdin=live)
        assert "image/png" in picture
        html = numbers["text/html"]
        assert cells(html) == [["x", "y"], ["1", "3.25"], ["2", "4.5"]]
        # A copy is read on other machines: only who sits at this one gets a link to the file.
        assert re.findall('href="(.*?)"', html) == (["some%20figures/line.csv"] if live else [])


@pytest.mark.slow
def test_a_slider_is_for_who_sits_at_it_and_a_picture_for_readers(kernel):
    picture, words, drawn = kernel(SLIDER, allow_stdin=False)
    assert "image/png" in picture
    assert "n = 3." in words["text/html"]
    assert "1, 3, 10" in words["text/html"]
    assert drawn["stdout"].strip() == "[3]"
    shown = kernel(SLIDER, allow_stdin=True)
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)
    assert "1, 3, 10" not in str(shown)


@pytest.mark.slow
def test_a_table_shows_its_texts_whole(kernel):
    wide = "import pandas as pd; from qrpo_lib.paper import frontend; frontend.show_whole_tables()\n"
    wide += "pd.DataFrame({'why': ['word ' * 40], **{f'c{i}': [i] for i in range(30)}})"
    (shown,) = kernel(wide, allow_stdin=True)
    rows = cells(shown["text/html"])
    assert rows[1][1].strip() == ("word " * 40).strip()
    assert rows[0][-1] == "c29"
    assert len(rows[0]) == 32


def test_a_long_table_is_cut_and_says_so(tmp_path):
    html = frontend.folded(pd.DataFrame({"n": range(250)}), tmp_path / "a & b.csv", linked=False)
    assert "a &amp; b.csv (250 rows; the first 100 here)" in html
    assert cells(html) == [["n"], *([str(number)] for number in range(100))]
    assert "(1 row)" in frontend.folded(pd.DataFrame({"n": [1]}), tmp_path / "a.csv", linked=True)


def test_outside_of_a_notebook_nothing_is_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert frontend.kernel() is None
    assert not frontend.is_live()
    frontend.show_with_data(None, None, None)
