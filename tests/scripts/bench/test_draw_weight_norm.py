import re
from pathlib import Path

import pytest

from scripts.bench.draw_weight_norm import FIGURES, Args, main
from wnrl.errors import UsageError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "weight_norm.md"


def test_every_figure_is_drawn_and_its_numbers_printed(tmp_path, capsys):
    main(Args(out=tmp_path, steps=3, seeds=1))
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == str(tmp_path)
    for name in FIGURES:
        assert f"\n{name}\n  " in printed
        assert (tmp_path / f"weight_norm_{name}.svg").stat().st_size < 200_000


@pytest.mark.parametrize("flags", [{"steps": 0}, {"seeds": 0}])
def test_no_step_and_no_seed_are_refused(flags):
    with pytest.raises(UsageError, match="must be above zero, got 0"):
        Args(**flags)


def test_the_page_shows_the_figures_that_the_program_draws():
    shown = set(re.findall(r"figures/weight_norm_(\w+)\.svg", PAGE.read_text(encoding="utf-8")))
    assert shown == set(FIGURES)
    for name in FIGURES:
        assert (PAGE.parent / "figures" / f"weight_norm_{name}.svg").stat().st_size < 200_000
