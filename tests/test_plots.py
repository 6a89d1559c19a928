import os
import subprocess
import sys

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt

from qrpo_lib import plots


def draw(folder, data):
    with plots.style():
        figure, axis = plt.subplots()
        axis.plot(data["x"], data["y"], label="$\\beta$")
        axis.legend()
    paths = plots.save(figure, "figure", data, folder)
    plt.close(figure)
    return [path.read_bytes() for path in paths]


def test_identical_data_give_identical_bytes_and_other_data_do_not(tmp_path):
    data = pd.DataFrame({"x": [0, 1], "y": [0.1, 0.2]})
    first, second = draw(tmp_path / "a", data), draw(tmp_path / "b", data)
    assert first == second
    other = draw(tmp_path / "c", data.assign(y=[0.1, 0.3]))
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_csv_holds_the_numbers(tmp_path):
    data = pd.DataFrame({"x": [0, 1], "y": [1 / 3, 2e-9]})
    draw(tmp_path, data)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "figure.csv"), data, rtol=1e-11)


def test_the_papers_colours_and_markers():
    assert (plots.ALGORITHMS["qrpo"].color, plots.ALGORITHMS["qrpo"].marker) == ("darkorange", "o")
    assert (plots.ALGORITHMS["dpo"].color, plots.ALGORITHMS["dpo"].marker) == ("cornflowerblue", "s")


UNUSUAL = {"text.usetex": True, "savefig.bbox": "tight", "lines.linewidth": 9, "axes.facecolor": "red"}
UNUSUAL |= {"pdf.compression": 0, "axes.unicode_minus": False, "font.size": 30, "savefig.transparent": True}


def test_settings_of_the_user_change_no_figure_and_are_there_afterwards(tmp_path):
    data = pd.DataFrame({"x": [0, 1], "y": [-0.1, 0.2]})
    expected = draw(tmp_path / "a", data)
    with mpl.rc_context(UNUSUAL):
        assert draw(tmp_path / "b", data) == expected
        assert {name: mpl.rcParams[name] for name in UNUSUAL} == UNUSUAL


def test_a_matplotlibrc_of_the_users_changes_no_figure(tmp_path):
    """With `text.usetex`, which needs LaTeX, and in a process of its own, where the file is read."""
    data = pd.DataFrame({"x": [0, 1], "y": [-0.1, 0.2]})
    expected = draw(tmp_path / "a", data)
    (tmp_path / "matplotlibrc").write_text("".join(f"{name}: {value}\n" for name, value in UNUSUAL.items()))
    program = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import matplotlib, pandas, test_plots
assert matplotlib.rcParams["text.usetex"]
test_plots.draw({str(tmp_path / "b")!r}, pandas.DataFrame({{"x": [0, 1], "y": [-0.1, 0.2]}}))
"""
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    assert [(tmp_path / "b" / f"figure.{suffix}").read_bytes() for suffix in ("pdf", "png", "csv")] == expected
