import itertools
import os
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from qrpo_lib.objective import algorithms
from qrpo_lib.paper import style


def draw(folder, data):
    with style.style():
        figure, axis = plt.subplots()
        axis.plot(data["x"], data["y"], label="$\\beta$")
        axis.legend()
    paths = style.save(figure, "figure", data, folder)
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


# In the paper's figures QRPO is orange, DPO and SimPO are blue, REBEL is green; the policies before training are grey
# here. Hues in degrees on the colour circle.
HUES = {"qrpo": (20, 45), "dpo": (190, 240), "simpo": (190, 240), "rebel": (100, 160)}


def test_each_algorithm_has_the_papers_hue_and_the_starts_are_grey():
    assert set(style.ALGORITHMS) == {*algorithms.ALGORITHMS, "initial", "sft"}
    for name, look in style.ALGORITHMS.items():
        hue, saturation, _ = mpl.colors.rgb_to_hsv(mpl.colors.to_rgb(look.color))
        if name in HUES:
            assert HUES[name][0] < 360 * hue < HUES[name][1], name
            assert saturation > 0.4, name
        else:
            assert saturation == 0, name
        assert look.label.lower() == name


def test_no_two_algorithms_look_alike():
    """Another marker each, and colours that are told apart at a glance: 20 apart in CIELAB, where 2 is just seen."""
    looks = list(style.ALGORITHMS.values())
    assert len({look.marker for look in looks}) == len(looks)
    for one, other in itertools.combinations(looks, 2):
        assert np.linalg.norm(lab(one.color) - lab(other.color)) > 20, (one, other)


def lab(color):
    """A colour in CIELAB (CIE 15, white D65) from sRGB (IEC 61966-2-1)."""
    rgb = np.array(mpl.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


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
import matplotlib, pandas, test_style
assert matplotlib.rcParams["text.usetex"]
test_style.draw({str(tmp_path / "b")!r}, pandas.DataFrame({{"x": [0, 1], "y": [-0.1, 0.2]}}))
"""
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=1500)
    assert [(tmp_path / "b" / f"figure.{suffix}").read_bytes() for suffix in ("pdf", "png", "csv")] == expected


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_names_at_the_ends_of_lines_do_not_overlap_and_keep_their_order(scale):
    values = [5.0, 5.01, 0.1, 4.99, 1000.0, 0.2, float("inf")]
    with style.style():
        figure, axis = plt.subplots(figsize=(5, 4))
        axis.set(yscale=scale, ylim=(0.1, 10))
        style.label_ends(axis, [(value, f"{value:g}", "black") for value in values])
        figure.canvas.draw()
    # Of an annotation this is the text with its line; here the text alone.
    boxes = {text.get_text(): mpl.text.Text.get_window_extent(text) for text in axis.texts}
    plt.close(figure)
    rising = [boxes[f"{value:g}"] for value in sorted(values)]
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(rising))
    assert rising[-1].y0 < axis.bbox.y1  # moved down from the top edge, not off the figure
    assert [text.get_text() for text in axis.texts if text.arrow_patch is None] == ["inf"]
