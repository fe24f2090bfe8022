from urllib.parse import parse_qs, urlsplit

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from tests.study.test_summary import DIGITS, TRIALS, finish, summary
from wnrl.runs import write_json
from wnrl.study.tensorboard import FOLDER, view, write_overview


def read(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def finished(root):
    for trial in TRIALS:
        finish(root, trial, 100.0 * (trial.seed + 1))
        config = {"norm": trial.arm.norm, "seed": trial.seed, "gamma": 0.9}
        write_json(root / trial.folder / "config.json", config)
    rows = summary(root)
    write_overview(root, rows)
    return rows


def test_each_task_has_a_chart_of_its_own_with_a_curve_an_arm(tmp_path):
    finished(tmp_path)
    none, layer = read(tmp_path / FOLDER / "none"), read(tmp_path / FOLDER / "layer")
    chart = "study/mlp · digits, validation ELBO in nats"
    assert len([tag for tag in none.Tags()["scalars"] if tag.startswith("study/")]) == 2
    assert [(e.step, e.value) for e in layer.Scalars(chart)] == [(10, 100.0), (20, 200.0)]
    assert [e.value for e in layer.Scalars(chart.replace("study/", "study_low/"))] == [50.0, 100.0]


def test_custom_scalars_have_a_chart_with_a_band_for_each_task(tmp_path):
    finished(tmp_path)
    (event,) = read(tmp_path).Tensors("custom_scalars__config__")
    layout = Layout.FromString(make_ndarray(event.tensor_proto).item())
    charts = {chart.title: chart.margin.series[0].value for chart in layout.category[0].chart}
    assert charts[DIGITS.title] == "study/mlp · digits, validation ELBO in nats"
    assert len(charts) == 2


def test_hparams_have_the_columns_of_all_runs_and_mark_what_was_varied(tmp_path):
    finished(tmp_path)
    content = read(tmp_path).PluginTagToContent("hparams")["_hparams_/experiment"]
    infos = HParamsPluginData.FromString(content).experiment.hparam_infos
    assert {info.name: info.differs for info in infos} == {
        "task": True, "algo": True, "norm": True, "seed": True, "gamma": False,
    }  # fmt: skip


def test_an_overview_that_is_made_again_takes_the_place_of_the_one_before(tmp_path):
    write_overview(tmp_path, finished(tmp_path))
    for folder in (tmp_path, tmp_path / FOLDER / "none"):
        assert len(list(folder.glob("events*"))) == 1


def test_the_address_shows_those_charts_and_a_colour_an_arm(tmp_path):
    address = urlsplit(f"http://localhost/{view(finished(tmp_path))}")
    assert address.fragment == "timeseries"
    assert parse_qs(address.query) == {
        "tagFilter": ["^study/"], "runColorGroup": ["regex:/(none|weight|layer)(?:[/,]|$)"],
    }  # fmt: skip
