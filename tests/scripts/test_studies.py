from dataclasses import replace
from pathlib import Path

import pytest

from scripts._lists import studies
from wnrl.study.execute import check_trials, study_of


@pytest.mark.parametrize("name", studies())
def test_every_run_of_a_shipped_study_can_begin(name):
    study = replace(
        study_of(f"scripts.studies.{name}"), seeds=range(1), tuning_seeds=range(1000, 1003)
    )
    check_trials([*study.tuning_trials(), *study.trials()], Path("nowhere"))
