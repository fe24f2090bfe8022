import re
from pathlib import Path

from scripts.bench.draw_weight_norm import Args, main

FIGURES = ("geometry", "learning_rates")
PAGE = Path(__file__).resolve().parents[3] / "docs" / "weight_norm.md"


def test_the_figures_are_drawn_and_the_numbers_printed(tmp_path, capsys):
    main(Args(out=tmp_path, steps=3, seeds=1))
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == str(tmp_path)
    for name in ("geometry", "lengths", "learning_rates", "batch_noise"):
        assert f"\n{name}\n  " in printed
    for name in FIGURES:
        assert (tmp_path / f"weight_norm_{name}.svg").stat().st_size < 200_000


def test_the_page_shows_the_figures_that_the_program_draws():
    shown = set(re.findall(r"figures/weight_norm_(\w+)\.svg", PAGE.read_text(encoding="utf-8")))
    assert shown == set(FIGURES)
    for name in FIGURES:
        assert (PAGE.parent / "figures" / f"weight_norm_{name}.svg").stat().st_size < 200_000
