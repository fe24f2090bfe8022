"""What a VAE sees and dreams, as image tensors for TensorBoard and PNG files."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wnrl import data, tags
from wnrl.data import Images
from wnrl.data.images import MOST_CHANNELS
from wnrl.errors import UsageError
from wnrl.runs import whole_file
from wnrl.vae.construction import config_of, load
from wnrl.vae.inputs import fixed_inputs
from wnrl.vae.measure import evaluating
from wnrl.vae.model import VAE
from wnrl.vae.models import DRAW

TILE_PIXELS = 48  # smaller images are magnified to at least this size


def grid(images: Tensor, columns: int) -> Tensor:
    """Return images side by side, magnified by a whole factor, with a grey line between them.

    Args:
        images: values in [0, 1], ``(N, C, height, width)``; of more than four channels the first
            three are shown.
        columns: images in a row; N is a multiple of it.

    Returns:
        One image, ``(C, rows · tile + factor, columns · tile + factor)``, a tile being a magnified
        image and a line of one magnified pixel.
    """
    images = images if images.shape[1] <= MOST_CHANNELS else images[:, :3]
    n, channels, height, width = images.shape
    rows = n // columns
    factor = math.ceil(TILE_PIXELS / max(height, width))
    lined = torch.nn.functional.pad(images, (1, 0, 1, 0), value=0.5)
    tiles = lined.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    tiles = tiles.reshape(rows, columns, channels, *tiles.shape[2:]).permute(2, 0, 3, 1, 4)
    picture = tiles.reshape(channels, rows * tiles.shape[2], columns * tiles.shape[4])
    return torch.nn.functional.pad(picture, (0, factor, 0, factor), value=0.5)


def reconstructions(model: VAE, images: Images, columns: int = 8, rows: int = 2) -> Tensor:
    """Return validation images, each row of them above its row of reconstructions.

    There are as many of them as full rows take; of fewer than one row, all.
    """
    columns = min(columns, len(images.valid))
    rows = min(rows, len(images.valid) // columns)
    shown = images.valid[: columns * rows]
    pixels, scale = fixed_inputs(model.likelihood, shown, images.levels, seed=0)
    x = pixels / scale
    with evaluating(model):
        decoded = model.reconstruct(x.to(next(model.parameters()).device)).cpu()
    pairs = torch.stack([x, decoded]).reshape(2, rows, columns, *images.shape)
    return grid(pairs.transpose(0, 1).reshape(-1, *images.shape), columns)


def samples(model: VAE, columns: int = 8, rows: int = 4) -> Tensor:
    """Return expected images of samples from the prior, the same noise at every call."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
    with evaluating(model):
        means = model.sample(columns * rows, generator).cpu()
    return grid(means, columns)


def traversals(model: VAE, columns: int = 11, rows: int = 8) -> Tensor:
    """Vary one latent variable a row, from −3 to 3; the others stay where they are.

    They go out from one draw from the prior, the same at every call. Shown are the variables that
    change the image the most, the strongest one on top.

    Raises:
        UsageError: the model is DRAW, whose latents are a sequence: see ``canvas``.
    """
    if isinstance(model, DRAW):
        raise UsageError("traversals are not for DRAW, whose latents are a sequence; see canvas")
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    with evaluating(model):
        start = model.draw_prior(1, generator)[0]  # (Z,)
        size = start.numel()
        ends = start.repeat(2, size, 1)  # (2, Z, Z): each variable at −2 and at 2
        ends[0].fill_diagonal_(-2.0)
        ends[1].fill_diagonal_(2.0)
        low, high = model.likelihood.mean(model.decode(ends))
        effect = (high - low).abs().flatten(1).sum(1)
        strongest = effect.argsort(descending=True)[:rows]
        z = start.repeat(len(strongest), columns, 1)  # (rows, columns, Z)
        for row, variable in zip(z, strongest, strict=True):
            row[:, variable] = torch.linspace(-3, 3, columns, device=device, dtype=z.dtype)
        shown = model.likelihood.mean(model.decode(z)).cpu()
    return grid(shown.reshape(-1, *model.image_shape), columns)


def canvas(model: VAE, rows: int = 8, most: int = 16) -> Tensor:
    """Show DRAW's canvas over the steps of samples from the prior, a sample a row.

    Args:
        model: the model.
        rows: samples.
        most: steps that are shown, evenly spaced up to the last.

    Raises:
        UsageError: the model is not DRAW.
    """
    if not isinstance(model, DRAW):
        raise UsageError(f"canvas is for DRAW, got a {type(model).__name__}")
    generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
    with evaluating(model):
        drawn = model.canvases(model.draw_prior(rows, generator))  # (T, rows, P, H, W)
        steps = torch.linspace(0, len(drawn) - 1, min(most, len(drawn))).round().long()
        shown = model.likelihood.mean(drawn[steps.to(drawn.device)]).transpose(0, 1).cpu()
    return grid(shown.flatten(0, 1), columns=len(steps))


def all_pictures(model: VAE, images: Images) -> dict[str, Tensor]:
    """Return every picture that there is of a model, by its TensorBoard tag."""
    shots = {
        tags.VAE_RECONSTRUCTIONS: reconstructions(model, images),
        tags.VAE_SAMPLES: samples(model),
    }
    if isinstance(model, DRAW):
        return {**shots, tags.VAE_CANVAS: canvas(model)}
    return {**shots, tags.VAE_TRAVERSALS: traversals(model)}


def draw(kind: str, run_folder: Path, weights: str | None, data_dir: Path | None) -> Tensor:
    """Return a picture of a trained VAE.

    Args:
        kind: samples, reconstructions, traversals or canvas.
        run_folder: the run's.
        weights: raw or averaged; None for those that the run reports.
        data_dir: the folder with the files of the data set, for reconstructions.

    Raises:
        UsageError: The folder holds no trained VAE, or the kind is not for it.
    """
    model = load(run_folder, weights)
    if kind == "reconstructions":
        return reconstructions(model, data.load(config_of(run_folder).dataset, data_dir))
    return {"samples": samples, "traversals": traversals, "canvas": canvas}[kind](model)


def save(picture: Tensor, path: Path) -> None:
    """Write a picture ``(C, H, W)`` with values in [0, 1] to a PNG.

    Raises:
        OSError: The file cannot be written.
    """
    from PIL import Image

    with whole_file(path) as file:
        Image.fromarray(to_pixels(picture)).save(file, "PNG")


def to_pixels(picture: Tensor) -> np.ndarray:
    """Return a picture ``(C, H, W)`` with values in [0, 1] as PIL takes it, uint8."""
    pixels = picture.mul(255).round().byte().permute(1, 2, 0).numpy()
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
