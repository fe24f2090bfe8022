"""Every TensorBoard tag in one place, and the HParams tab.

Tags of agents are SB3's own wherever SB3 has one, so that our curves lie over SB3's.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

# Agents; the x axis is environment steps.
EVAL_RETURN = "eval/mean_reward"
FINAL_RETURN = "eval/final_return"
EVAL_LENGTH = "eval/mean_ep_length"
TRAIN_LOSS = "train/loss"
LEARNING_RATE = "train/learning_rate"
STEPS_PER_SECOND = "time/steps_per_second"

# Layers: prefixes, to which a name is added. TensorBoard makes one group of cards of all tags with
# the same first word, so each measure of several layers has a word of its own; the words sort
# behind SB3's, whose curves are looked at first.
NORM_G = "norm/g"
NORM_V = "norm/v"
EFFECTIVE_LR = "update_effective_lr"
GRADIENT_NORM = "update_grad_norm"
DORMANT = "units_dormant"
DEAD = "units_dead"
RANK = "units_rank"
# How far the policy that learns is from the one that acted.
PRE_UPDATE_KL = "norm/pre_update_kl"
PRE_UPDATE_CLIP_FRACTION = "norm/pre_update_clip_fraction"
# Of the Hessian of the loss.
CURVATURE_LARGEST = "update_curvature/largest"
CURVATURE_SMALLEST = "update_curvature/smallest"
CURVATURE_CONDITION = "update_curvature/condition"
CURVATURE_ERROR = "update_curvature/condition_error"

# VAEs, in nats an image; the x axis is gradient steps.
VAE_NLL = "vae/nll"
VAE_TEST_ELBO = "vae/test_elbo"
VAE_TRAIN_ELBO = "vae/train_elbo"
VAE_TRAIN_RECONSTRUCTION = "vae/train_reconstruction"
VAE_TRAIN_KL = "vae/train_kl"
VAE_TRAIN_IWAE = "vae/train_iwae"  # the importance-weighted bound, where that is trained
VAE_TRAIN_GRADIENT_NORM = "vae/train_grad_norm"  # before clipping, of all parameters together
VAE_VALID_ELBO = "vae/valid_elbo"
VAE_VALID_RECONSTRUCTION = "vae/valid_reconstruction"
VAE_VALID_KL = "vae/valid_kl"
VAE_VALID_IWAE = "vae/valid_iwae"
VAE_VALID_BITS = "vae/valid_bits_per_dim"  # of the bound, for grey levels
VAE_RECONSTRUCTIONS = "vae/reconstructions"  # images: inputs above what becomes of them
VAE_SAMPLES = "vae/samples"  # images
VAE_TRAVERSALS = "vae/traversals"  # images: a latent variable a row
VAE_CANVAS = "vae/canvas"  # images: how DRAW draws, a sample a row


# What runs differ by and are compared by; TensorBoard's HParams tab shows these columns first.
IDENTITY = ("task", "algo", "norm", "seed")
METRICS = (FINAL_RETURN, VAE_NLL, VAE_TEST_ELBO, STEPS_PER_SECOND)


def write_hparams(
    writer: "SummaryWriter", hparams: Mapping[str, Any], metrics: Mapping[str, float], step: int
) -> None:
    """Fills TensorBoard's HParams tab from the run's own event file.

    ``SummaryWriter.add_hparams`` makes a second run beside the first one, which then has no
    curves; this writes the same summaries into the writer that has them. The tab takes its columns
    from any one of the runs that it shows, and sorts those that differ to the front: so each run
    names the same metrics, and marks ``IDENTITY``.

    Args:
        writer: the run's writer.
        hparams: names and values, ``IDENTITY`` among them; anything but a number, a string or a
            bool becomes a string.
        metrics: some of ``METRICS`` and their values; each is also written as a scalar, which is
            where the tab takes them from.
        step: where those scalars stand on the x axis: the end of training.
    """
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams as summaries

    plain = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in hparams.items()
    }
    experiment, *session = summaries(plain, dict.fromkeys(METRICS, 0.0))
    plugin = experiment.value[0].metadata.plugin_data
    columns = HParamsPluginData.FromString(plugin.content)
    for info in columns.experiment.hparam_infos:
        info.differs = info.name in IDENTITY
    plugin.content = columns.SerializeToString()
    for summary in (experiment, *session):
        writer._get_file_writer().add_summary(summary)
    for tag, value in metrics.items():
        writer.add_scalar(tag, value, step)
