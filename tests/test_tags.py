from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.writer import SummaryWriter

from wnrl import tags


def written(folder, hparams, metrics):
    with SummaryWriter(str(folder)) as writer:
        tags.write_hparams(writer, hparams, metrics, step=500)
    events = EventAccumulator(str(folder))
    events.Reload()
    content = events.PluginTagToContent("hparams")
    parts = {key: HParamsPluginData.FromString(value) for key, value in content.items()}
    return events, parts["_hparams_/experiment"].experiment, parts["_hparams_/session_start_info"]


HPARAMS = {"task": "digits", "algo": "mlp", "norm": "weight", "seed": 1, "hidden": (64, 32)}


def test_identity_of_a_run_stands_in_the_first_columns(tmp_path):
    _, experiment, _ = written(tmp_path, HPARAMS, {})
    marked = {info.name for info in experiment.hparam_infos if info.differs}
    assert marked == {"task", "algo", "norm", "seed"}


def test_every_run_names_the_same_metrics(tmp_path):
    _, experiment, _ = written(tmp_path, HPARAMS, {tags.VAE_NLL: 23.0})
    assert tuple(info.name.tag for info in experiment.metric_infos) == tags.METRICS


def test_values_of_all_types_are_kept(tmp_path):
    _, _, session = written(tmp_path, HPARAMS, {})
    values = session.session_start_info.hparams
    assert values["norm"].string_value == "weight"
    assert values["seed"].number_value == 1
    assert values["hidden"].string_value == "(64, 32)"


def test_metrics_stand_at_the_end_of_training_in_the_same_event_file(tmp_path):
    events, _, _ = written(tmp_path, HPARAMS, {tags.VAE_NLL: 23.0})
    assert [(s.step, s.value) for s in events.Scalars(tags.VAE_NLL)] == [(500, 23.0)]
    assert len(list(tmp_path.iterdir())) == 1
