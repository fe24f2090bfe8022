"""The settings that decide a VAE run."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar, Literal

from wnrl.data import FRAMES, Dataset, dataset, load
from wnrl.errors import UsageError
from wnrl.limits import ActivationKey, FromZero, Limited, NormKey, Positive, Whole, limit, one_of
from wnrl.norms import NORMS
from wnrl.runs.folder import WHERE
from wnrl.vae.likelihoods import LIKELIHOODS
from wnrl.vae.models import MODELS

SIZES = ("hidden", "latent_dim", "activation", "draw_steps")
"""Settings that only some models have: arguments of their constructors."""
Widths = Annotated[tuple[int, ...], limit(lambda ns: len(ns) and min(ns) > 0, "widths above zero")]
SAMPLES_ONLY = ("conv_iaf", "draw", "draw_attention")
"""Models whose posterior has a density at its own samples alone."""
FORMER: Mapping[str, Any] = {"select": "last"}
"""Settings that the ``config.json`` of earlier runs has, and what every run has now."""
IWAE_STAGES = 8


def iwae_stages(done: float) -> float:
    """Return the factor of the rate: 10^(−i/7) for 3^i epochs (Burda et al., 2016, section 5)."""
    ends = [(3 ** (i + 1) - 1) // 2 for i in range(IWAE_STAGES)]
    stage = next(i for i, end in enumerate(ends) if done * ends[-1] <= end + 1e-6)
    return 10 ** (-stage / 7)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.05 + 0.475 * (1 + math.cos(math.pi * max(0.0, 2 * done - 1))),
    "iwae": iwae_stages,
}
"""From the share of the training that is done to the factor of the learning rate. ``cosine`` stays
at 1 for the first half and falls to 0.05 over the second; ``iwae`` is in its paper's proportions,
3280 epochs being all of them."""


@dataclass(frozen=True)
class VAEConfig(Limited):
    """One VAE run; the same values on the same machine give the same bits.

    What is None is settled at construction, and no longer None then, unless it means nothing for
    the model.

    Raises:
        UsageError: a value that no run can have.
    """

    members: ClassVar[tuple[str, ...]] = ("seed", "learning_rate", "beta")
    """What may differ from run to run where many are trained as one batch."""

    model: Annotated[str, one_of(MODELS)] = "mlp"
    """The kind of VAE: mlp, mlp2, conv, conv_iaf, draw, draw_attention or frames; a key of
    wnrl.vae.models.MODELS."""
    dataset: str = "digits"
    """digits, mnist, mnist-static, fashion-mnist or cifar10; frames:<env id>;
    folder:<path> of pictures; npz:<path> of arrays; a key of wnrl.data.DATASETS."""
    norm: NormKey = "weight"
    """Normalisation: none, weight, weight_mean, mean, projected, batch, batch_renorm, layer, rms or
    spectral; a key of wnrl.NORMS."""
    norm_kwargs: dict[str, int | float | str] = field(default_factory=dict)
    """Options of the norm, as in --norm-kwargs momentum 0.01; wnrl.convert takes them."""
    norm_heads: bool = True
    """Whether output layers take the norm too, where it has a way."""
    seed: Annotated[int, limit(lambda n: 0 <= n < 2**32, "from 0 to 2^32 - 1")] = 0
    """Seeds two generators alike: one draws the initial weights; the other order, binarisation and
    noise in training."""
    likelihood: Annotated[str, one_of(LIKELIHOODS)] | None = None
    """Of the pixels: bernoulli, logistic, logistic_mixture or normal (a density). If not given,
    bernoulli for one channel, logistic_mixture for colour, logistic for frames."""
    hidden: Widths | None = None
    """Widths of the mlp's encoder's hidden layers; the decoder mirrors them."""
    latent_dim: Whole | None = None
    """Number of latent variables; not for mlp2, which has the IWAE paper's 100 and 50."""
    activation: ActivationKey | None = None
    """For mlp and mlp2: tanh, relu, elu, ...; a key of wnrl.networks.ACTIVATIONS."""
    draw_steps: Whole | None = None
    """Steps of DRAW."""
    data_init: Annotated[int, limit(lambda n: n == 0 or n > 1, "0 or at least 2 images")] = 0
    """Images for the data-dependent initialisation before the first step; 0 for none."""
    objective: Literal["elbo", "iwae", "dreg"] = "elbo"
    """What is maximised: elbo, iwae (the importance-weighted bound) or dreg (the same, with doubly
    reparametrised gradients)."""
    train_samples: Whole = 1
    """K, samples an image in training."""
    train_chunk: Whole | None = None
    """For iwae: so many of the K samples at once, the others computed again, for memory."""
    beta: FromZero = 1.0
    """For elbo: factor of the KL in training; what is reported has none."""
    warm_up_epochs: FromZero = 0.0
    """For elbo: epochs over which the KL's factor rises from 0 to beta."""
    free_bits: FromZero = 0.0
    """For elbo: nats that each group of latent variables has free in training."""
    free_bits_per: Literal["group", "example"] = "group"
    """group or example: whether free bits are of the group's mean over the batch, or of each
    example."""
    epochs: Whole | None = 100
    """Passes over the training set (its last, partial batch left out); or give n_steps."""
    n_steps: Whole | None = None
    """Gradient steps, instead of epochs."""
    batch_size: Whole = 64
    """Images in a gradient step."""
    optimizer: Literal["adam", "adamax"] = "adam"
    """adam or adamax, with torch's other defaults."""
    learning_rate: Positive = 4e-3
    """Its step size at the start."""
    schedule: Annotated[str, one_of(SCHEDULES)] = "cosine"
    """Of the step size: constant, cosine (to 5 % over the second half) or iwae (its paper's)."""
    max_grad_norm: Positive | None = None
    """Gradients are scaled down to this length, taken together."""
    ema_epochs: FromZero = 0.0
    """Over about so many of the last epochs weights and buffers are averaged (exponentially) for
    all that is measured; 0 for none."""
    amp: bool = False
    """Whether networks are trained in bfloat16; log-probabilities and what is measured are not."""
    n_samples: Whole = 1000
    """K importance samples an image for the reported NLL."""
    n_logs: Whole = 50
    """How many points the learning curves have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle_sizes()
        if self.likelihood is None:
            usual = "bernoulli" if self.images.shape[0] == 1 else "logistic_mixture"
            usual = "logistic" if self.dataset.startswith(FRAMES) else usual
            object.__setattr__(self, "likelihood", usual)
        self._check_together()

    def _settle_sizes(self) -> None:
        """Fill what was not given with the model's own; refuse what it does not have."""
        arguments = inspect.signature(MODELS[self.model]).parameters
        for name in SIZES:
            value = getattr(self, name)
            if name not in arguments:
                if value is not None:
                    raise UsageError(f"{name} is no setting of model {self.model!r}, got {value!r}")
            elif (
                value is None and (usual := arguments[name].default) is not inspect.Parameter.empty
            ):
                object.__setattr__(self, name, usual)

    def _check_together(self) -> None:
        """Refuse settings that do not go together, or that would be ignored."""
        objective, norm = self.objective, self.norm
        batch, lengths = NORMS[norm].batch_statistics, (self.epochs, self.n_steps)
        for name, neutral in {"beta": 1.0, "warm_up_epochs": 0.0, "free_bits": 0.0}.items():
            value = getattr(self, name)
            if objective != "elbo" and value != neutral:
                told = f"got {value!r} with {objective!r}"
                raise UsageError(f"{name} is for objective 'elbo' alone, {told}")
        for refused, reason in (
            (lengths.count(None) != 1,
             f"give exactly one of epochs and n_steps, got epochs={self.epochs!r} and "
             f"n_steps={self.n_steps!r}"),
            (self.batch_size == 1 and batch,
             f"batch_size must be at least 2 for norm {norm!r}, got 1"),
            (self.train_chunk is not None and objective != "iwae",
             f"train_chunk is for objective 'iwae' alone, got {objective!r}"),
            (self.train_chunk is not None and batch,
             f"train_chunk is not for norm {norm!r}: its statistics would be of a chunk"),
            (self.train_chunk is not None and NORMS[norm].steps_in_forward,
             f"train_chunk is not for norm {norm!r}: its weights would be of a chunk"),
            (objective == "dreg" and batch,
             f"objective 'dreg' is not for norm {norm!r}: its samples see each other"),
            (objective == "dreg" and self.model in SAMPLES_ONLY,
             "objective 'dreg' needs a posterior with a density at any z, which model "
             f"{self.model!r} has not"),
        ):  # fmt: skip
            if refused:
                raise UsageError(reason)

    @cached_property
    def images(self) -> Dataset:
        """What is known of the data set; of a trained model, what its run knew."""
        return dataset(self.dataset)

    def to_json(self) -> dict[str, Any]:
        """Return every value that decides what a model is and how it is trained."""
        return {**asdict(self), "image_shape": self.images.shape, "levels": self.images.levels}

    def steps_per_epoch(self, n_train: int) -> int:
        """Return the gradient steps of a pass over the training set.

        Args:
            n_train: images in the training set.

        Raises:
            UsageError: a batch does not fit into the training set.
        """
        for name in ("batch_size", "data_init"):
            if (n := getattr(self, name)) > n_train:
                raise UsageError(f"{name} must be at most the {n_train} training images, got {n}")
        return n_train // self.batch_size

    def total_steps(self, n_train: int) -> int:
        """Return the gradient steps of the whole run.

        Args:
            n_train: images in the training set.

        Raises:
            UsageError: a batch does not fit into the training set.
        """
        return self.n_steps or (self.epochs or 0) * self.steps_per_epoch(n_train)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VAEConfig":
        """Return the config from the values in a run's ``config.json``.

        Args:
            values: from ``to_json``; those of ``wnrl.runs.folder.WHERE`` may stand beside them. A
                setting that is not there has its default: the file may be older than it.

        Raises:
            UsageError: ``values`` has other keys, or not even those of model, data set and norm; or
                a former setting has a value that no run has any more.
        """
        settings = {name: value for name, value in values.items() if name not in WHERE}
        for name, now in FORMER.items():
            if (value := settings.pop(name, now)) != now:
                raise UsageError(f"{name} of a VAE run is {now!r} alone by now, got {value!r}")
        shape, levels = settings.pop("image_shape", None), settings.pop("levels", None)
        known = {field.name for field in fields(cls)}
        if odd := {"model", "dataset", "norm"} - settings.keys() | settings.keys() - known:
            told = ", ".join(sorted(odd))
            raise UsageError(f"not the configuration of a VAE run; missing or unknown: {told}")
        config = cls.__new__(cls)
        if shape and levels:  # whether its data set is known here or not
            images = Dataset(tuple(shape), levels, partial(load, settings["dataset"]))
            vars(config)["images"] = images
        config.__init__(**settings)  # type: ignore[misc]
        return config
