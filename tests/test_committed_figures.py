"""The committed figures of the default profile, drawn again from the numbers beside them: the same, byte for byte."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from qrpo_lib import plots, result_figures, runs

FOLDER = runs.PACKAGE.parent / "figures" / "tiny" / "chat"
FIGURES = {
    "figure-3": result_figures.draw_scaling,
    "figure-6": result_figures.draw_log_ratios,
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_committed_figure_is_what_its_numbers_give(name, tmp_path):
    if not (FOLDER / f"{name}.csv").is_file():
        pytest.skip(f"figures/tiny/chat/{name} is not committed: run `qrpo reproduce` and commit figures/")
    rows = pd.read_csv(FOLDER / f"{name}.csv")
    figure = FIGURES[name](rows)
    made = plots.save(figure, name, rows, tmp_path)
    plt.close(figure)
    # A PDF's coordinates can have digits that the numbers' 12 do not hold; pixels and the numbers themselves have not.
    for path in (path for path in made if path.suffix != ".pdf"):
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), path.name
