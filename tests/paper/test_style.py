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
from qrpo_lib.profiles import settings as profiles


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


# How colours look to those who lack a kind of cone (Machado, Oliveira, Fernandes 2009, severity 1), in linear RGB.
BLINDNESS = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen_by(color, matrix):
    rgb = np.array(mpl.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(matrix) @ linear, 0, 1)
    return tuple(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def studies_of_tiny_beyond():
    for arm in profiles.arms("tiny-beyond"):
        for study in profiles.load("tiny-beyond", arm).experiment.relatives:
            labels = list(dict.fromkeys(method.label for method in study.methods))
            # the notebook of the online study draws its methods and its data apart
            yield from [labels[:4], labels[4:]] if study.study == "online" else [labels]


@pytest.mark.parametrize("labels", list(studies_of_tiny_beyond()), ids=lambda labels: labels[0])
def test_methods_of_a_figure_are_told_apart_by_mark_and_by_colour_blind_readers(labels):
    looks = style.looks(labels)
    assert len({look.marker for look in looks.values()}) == len(labels)
    for one, other in itertools.combinations(looks.values(), 2):
        for matrix in (np.eye(3), *BLINDNESS.values()):
            assert np.linalg.norm(lab(seen_by(one.color, matrix)) - lab(seen_by(other.color, matrix))) > 12, (
                one,
                other,
            )


def test_qrpo_and_dpo_look_the_same_in_every_figure():
    for label, name in {"QRPO": "qrpo", "QRPO, exact Z": "qrpo", "exact": "qrpo", "DPO": "dpo"}.items():
        look = style.looks([label])[label]
        assert (look.color, look.marker) == (style.ALGORITHMS[name].color, style.ALGORITHMS[name].marker)


def test_methods_of_somebodys_own_get_looks_that_are_free():
    looks = style.looks(["QRPO", "mine", "yours", "mine"])
    assert list(looks) == ["QRPO", "mine", "yours"]
    assert len({look.color for look in looks.values()}) == len({look.marker for look in looks.values()}) == 3


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_ordered_colours_grow_lighter_so_that_they_keep_their_order_in_grey(count):
    lightness = [lab(color)[0] for color in style.ordered_colors(count)]
    assert len(lightness) == count
    assert all(lighter - darker > 10 for darker, lighter in itertools.pairwise(lightness))


@pytest.mark.parametrize("color", ["darkorange", "lightskyblue", "#2a9d8f", "black", "yellow"])
def test_letters_are_dark_enough_on_white(color):
    found = mpl.colors.to_rgb(style.legible(color))
    luminance = np.array([0.2126, 0.7152, 0.0722]) @ [
        ((x + 0.055) / 1.055) ** 2.4 if x > 0.04045 else x / 12.92 for x in found
    ]
    assert 1.05 / (luminance + 0.05) >= 4.5
    hues = [mpl.colors.rgb_to_hsv(mpl.colors.to_rgb(one))[0] for one in (color, found)]
    assert hues[0] == pytest.approx(hues[1], abs=0.02)


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
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=900)
    assert [(tmp_path / "b" / f"figure.{suffix}").read_bytes() for suffix in ("pdf", "png", "csv")] == expected


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_names_at_the_ends_of_lines_do_not_overlap_and_keep_their_order(scale):
    values = [5.0, 5.01, 0.1, 4.99, 1000.0, 0.2, float("inf")]
    names = {value: f"{value:g}" for value in values} | {5.01: "5.01,\na long name"}
    with style.style():
        figure, axis = plt.subplots(figsize=(5, 4))
        axis.set(yscale=scale, ylim=(0.1, 10))
        style.label_ends(axis, [(value, names[value], "black") for value in values])
        figure.canvas.draw()
    # Of an annotation this is the text with its line; here the text alone.
    boxes = {text.get_text(): mpl.text.Text.get_window_extent(text) for text in axis.texts}
    plt.close(figure)
    rising = [boxes[names[value]] for value in sorted(values)]
    assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(rising))
    assert rising[-1].y0 < axis.bbox.y1  # moved down from the top edge, not off the figure
    assert [text.get_text() for text in axis.texts if text.arrow_patch is None] == ["inf"]


def test_a_name_leads_to_where_its_line_ends():
    with style.style():
        figure, axis = plt.subplots()
        axis.set(xlim=(0, 10), ylim=(0, 1))
        style.label_ends(axis, [(0.2, "short", "black"), (0.8, "long", "black")], at=[2.5, 10])
        figure.canvas.draw()
    assert [text.xy for text in axis.texts] == [pytest.approx((0.25, 0.2)), pytest.approx((1.0, 0.8))]
    plt.close(figure)


def test_numbers_are_rounded_and_small_ones_keep_two_digits():
    frame = pd.DataFrame(
        {"rate": [1e-5, 3.14159e-4], "reward": [2.345678, float("nan")], "steps": [12, 25036], "name": ["x", None]}
    )
    table = style.frame_markdown(frame, 3)
    assert table.splitlines()[2:] == ["| 1e-05 | 2.346 | 12 | x |", "| 0.00031 | – | 25036 | – |"]
    shown = style.rounded(frame, 3)
    assert list(shown["rate"]) == [1e-5, 3.1e-4]
    assert (style.rounded(shown, 3)["reward"].dropna() == 2.346).all()
