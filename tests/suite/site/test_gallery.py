"""The page of figures: in which order, and under each its files."""

from types import SimpleNamespace

from qrpo_lib.suite.site import gallery


def test_figures_stand_by_profile_with_their_files(tmp_path):
    figures = tmp_path / "figures"
    for name in (
        "benchmarks/speed.png",
        "mine/chat/table-3.md",
        "smol/chat/figure-1.png",
        "tiny/chat/figure-1.png",
        "tiny/chat/figure-1.csv",
        "tiny/chat/claims/a.md",
        "theory/noise.png",
    ):
        (figures / name).parent.mkdir(parents=True, exist_ok=True)
        (figures / name).write_text("# Table 3\n\n| a |" if name.endswith(".md") else "x")
    pages = SimpleNamespace(root=tmp_path, copy_figure=lambda path: f"copied/{path.name}")
    text = gallery.page(pages)
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["theory", "tiny, chat", "smol, chat", "mine, chat", "benchmarks"]  # verdicts are in the ledger
    assert "### Figure 1\n\n![Figure 1](copied/figure-1.png){ loading=lazy }" in text
    assert "Files: [csv](copied/figure-1.csv), [png](copied/figure-1.png)" in text
    table = text.partition("### Table 3")[2]
    assert "| a |" in table  # as a table, without its own heading
    assert "Table 3" not in table.partition("##")[0]
