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
