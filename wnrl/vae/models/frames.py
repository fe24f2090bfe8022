"""A VAE for 64 × 64 frames of environments: that of World Models (Ha & Schmidhuber, 2018)."""

from torch import Tensor, nn

from wnrl.errors import UsageError
from wnrl.vae.likelihoods import DiscretisedLogistic, PixelLikelihood
from wnrl.vae.model import VAE, ImageShape

SIDE = 64


class FrameVAE(VAE):
    """Four strided convolutions and back (arXiv:1803.10122, appendix A.1), ReLU between them.

    Args:
        image_shape: C, 64, 64.
        latent_dim: Z.
        likelihood: of the pixels; a discretised logistic of 256 levels by default, where the paper
            has squared errors.
        pixel_means: means of the training set in [0, 1], ``(C, H, W)``: their mean over positions
            is where the output bias starts; None leaves torch's.

    Raises:
        UsageError: images of another size, a size that is not above zero, or means or a likelihood
            of other images.
    """

    def __init__(
        self,
        image_shape: ImageShape = (3, SIDE, SIDE),
        latent_dim: int = 32,
        *,
        likelihood: PixelLikelihood | None = None,
        pixel_means: Tensor | None = None,
    ) -> None:
        if tuple(image_shape[1:]) != (SIDE, SIDE):
            raise UsageError(f"image_shape must be (C, {SIDE}, {SIDE}), got {tuple(image_shape)}")
        channels = image_shape[0]
        super().__init__(image_shape, latent_dim, likelihood or DiscretisedLogistic(channels))
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 32, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 128, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(128, 256, 4, stride=2),
            nn.ReLU(),
            nn.Flatten(),  # 256 maps of 2 × 2
            nn.Linear(1024, 2 * latent_dim),
        )
        head = nn.ConvTranspose2d(32, self.likelihood.maps, 6, stride=2)
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 1024),
            nn.Unflatten(1, (1024, 1, 1)),
            nn.ConvTranspose2d(1024, 128, 5, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 5, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 6, stride=2),
            nn.ReLU(),
            head,
        )
        assert head.bias is not None
        self.start_at(head.bias, pixel_means)
