"""Every TensorBoard tag in one place.

Tags of agents are SB3's own wherever SB3 has one, so that our curves lie over SB3's.
"""

# Agents; the x axis is environment steps.
EVAL_RETURN = "eval/mean_reward"
FINAL_RETURN = "eval/final_return"
EVAL_LENGTH = "eval/mean_ep_length"
ROLLOUT_RETURN = "rollout/ep_rew_mean"
ROLLOUT_LENGTH = "rollout/ep_len_mean"
TRAIN_LOSS = "train/loss"
LEARNING_RATE = "train/learning_rate"
FILM = "eval/film"
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
# Of the Hessian of the loss: a prefix of the fields of ``wnrl.diagnostics.Curvature``.
CURVATURE = "update_curvature"

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


CONFIG = "config"  # a text: all that a run was told

# A study's own: a curve an arm, with a name for each task.
STUDY_MEAN = "study/"
STUDY_LOW = "study_low/"
STUDY_HIGH = "study_high/"
VERDICTS = "verdicts"  # a text

# Prefixes of what tells how networks fare; a run's result has the last value of each, the mean over
# its layers.
DIAGNOSTICS = (
    NORM_G,
    NORM_V,
    EFFECTIVE_LR,
    GRADIENT_NORM,
    DORMANT,
    DEAD,
    RANK,
    PRE_UPDATE_KL,
    PRE_UPDATE_CLIP_FRACTION,
    VAE_TRAIN_GRADIENT_NORM,
    VAE_VALID_KL,
)

# What runs differ by and are compared by in TensorBoard's HParams tab.
IDENTITY = ("task", "algo", "norm", "seed")
METRICS = (FINAL_RETURN, VAE_NLL, VAE_TEST_ELBO, STEPS_PER_SECOND)
