"""Convolutional VAEs: the weight norm paper's residual one, and that of World Models."""

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from wnrl.data.frames import SIDE
from wnrl.errors import UsageError
from wnrl.limits import Whole
from wnrl.vae.likelihoods import DiscretisedLogistic
from wnrl.vae.model import VAE, ImageShape
from wnrl.vae.pixels import PixelLikelihood

MAPS = (16, 32, 32)
"""Feature maps of the three stages; each of the first two halves height and width at its end."""
N_UNITS = 450
BRANCH_SCALE = 0.1


class ResidualBlock(nn.Module):
    """``x + 0.1 · conv(ELU(conv(ELU(x))))``: the factor keeps a deep stack near the identity.

    Args:
        maps: channels in and out.
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ELU(),
            nn.Conv2d(maps, maps, 3, padding=1),
            nn.ELU(),
            nn.Conv2d(maps, maps, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same."""
        return x + BRANCH_SCALE * self.branch(x)


def conv_encoder(image_shape: ImageShape, out_features: int) -> nn.Sequential:
    """Return three stages of two residual blocks, then fully connected units.

    Args:
        image_shape: C, H, W; H and W are divisible by 4.
        out_features: of the linear head.

    Raises:
        UsageError: an image that cannot be halved twice.
    """
    channels, height, width = image_shape
    if height % 4 or width % 4:
        raise UsageError(f"image_shape must have sides divisible by 4, got {image_shape}")
    a, b, c = MAPS
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(channels, a, 3, padding=1),
            stage1=nn.Sequential(ResidualBlock(a), ResidualBlock(a)),
            down1=nn.Conv2d(a, b, 3, stride=2, padding=1),
            stage2=nn.Sequential(ResidualBlock(b), ResidualBlock(b)),
            down2=nn.Conv2d(b, c, 3, stride=2, padding=1),
            stage3=nn.Sequential(ResidualBlock(c), ResidualBlock(c)),
            elu=nn.ELU(),
            flatten=nn.Flatten(),
            units=nn.Linear(c * height * width // 16, N_UNITS),
            units_elu=nn.ELU(),
            head=nn.Linear(N_UNITS, out_features),
        )
    )


def conv_decoder(latent_dim: int, params_shape: ImageShape) -> nn.Sequential:
    """Return the mirror image of ``conv_encoder``: ``(R, Z) -> (R, P, H, W)``."""
    maps, height, width = params_shape
    a, b, c = MAPS
    small = (c, height // 4, width // 4)
    return nn.Sequential(
        OrderedDict(
            units=nn.Linear(latent_dim, N_UNITS),
            units_elu=nn.ELU(),
            spread=nn.Linear(N_UNITS, c * height * width // 16),
            unflatten=nn.Unflatten(1, small),
            stage3=nn.Sequential(ResidualBlock(c), ResidualBlock(c)),
            up2=nn.ConvTranspose2d(c, b, 4, stride=2, padding=1),
            stage2=nn.Sequential(ResidualBlock(b), ResidualBlock(b)),
            up1=nn.ConvTranspose2d(b, a, 4, stride=2, padding=1),
            stage1=nn.Sequential(ResidualBlock(a), ResidualBlock(a)),
            elu=nn.ELU(),
            head=nn.Conv2d(a, maps, 3, padding=1),
        )
    )


def conv_hidden(model: VAE) -> list[str]:
    """Return the names of the hidden layers of an encoder and a decoder of this kind.

    They are those with a nonlinearity directly behind: the first convolution of each block, and
    the fully connected units.
    """
    blocks = [f"stage{k}.{block}.branch.1" for k in (1, 2, 3) for block in (0, 1)]
    return [f"{part}.{name}" for part in ("encoder", "decoder") for name in ("units", *blocks)]


class ConvVAE(VAE):
    """Residual blocks, for images with sides divisible by 4 (arXiv:1602.07868, section 5.2).

    The paper gives the maps, the blocks, 450 units and ELU; the number of latent variables is that
    of the same network in Kingma et al. (2016, arXiv:1606.04934), and so is the order in a block.

    Args:
        image_shape: C, H, W of the images.
        latent_dim: Z.
        likelihood: of the pixels; Bernoulli by default.

    Raises:
        UsageError: an image that cannot be halved twice, a size that is not above zero, or means
            or a likelihood of other images.
    """

    hidden_layers = conv_hidden

    def __init__(
        self,
        image_shape: ImageShape,
        latent_dim: Whole = 32,
        *,
        likelihood: PixelLikelihood | None = None,
    ) -> None:
        super().__init__(image_shape, latent_dim, likelihood)
        self.encoder = conv_encoder(self.image_shape, 2 * latent_dim)
        self.decoder = conv_decoder(latent_dim, self.params_shape)


class FrameVAE(VAE):
    """Four strided convolutions and back (Ha & Schmidhuber, 2018, arXiv:1803.10122, A.1).

    Args:
        image_shape: C, 64, 64.
        latent_dim: Z.
        likelihood: of the pixels; a discretised logistic of 256 levels by default, where the paper
            has squared errors.

    Raises:
        UsageError: images of another size, a size that is not above zero, or means or a likelihood
            of other images.
    """

    def __init__(
        self,
        image_shape: ImageShape = (3, SIDE, SIDE),
        latent_dim: Whole = 32,
        *,
        likelihood: PixelLikelihood | None = None,
    ) -> None:
        if tuple(image_shape[1:]) != (SIDE, SIDE):
            raise UsageError(f"image_shape must be (C, {SIDE}, {SIDE}), got {tuple(image_shape)}")
        channels = image_shape[0]
        super().__init__(image_shape, latent_dim, likelihood or DiscretisedLogistic(channels))
        down, up = (channels, 32, 64, 128, 256), (1024, 128, 64, 32, self.likelihood.maps)
        convolutions: list[nn.Module] = []
        for maps in pairwise(down):
            convolutions += [nn.Conv2d(*maps, 4, stride=2), nn.ReLU()]
        # 256 maps of 2 × 2
        self.encoder = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1024, 2 * latent_dim))
        back: list[nn.Module] = [nn.Linear(latent_dim, 1024), nn.Unflatten(1, (1024, 1, 1))]
        for maps, size in zip(pairwise(up), (5, 5, 6, 6), strict=True):
            back += [nn.ConvTranspose2d(*maps, size, stride=2), nn.ReLU()]
        self.decoder = nn.Sequential(*back[:-1])

    def hidden_layers(self) -> list[str]:
        """Return the convolutions but the last; the decoder's linear layer has no nonlinearity."""
        return [*(f"encoder.{k}" for k in (0, 2, 4, 6)), *(f"decoder.{k}" for k in (2, 4, 6))]
