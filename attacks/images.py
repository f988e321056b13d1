from torch import Tensor

from bench.api import Target, Threat, library


@library(prefix="images", passes="0 forwards", reads_images=True)
def images(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    name: str,
    images: Tensor,
    sha256: str = "",
    array: str = "",
) -> Tensor:
    """Adversarial images that somebody saved, such as ``images:adv.npz``: an npz, npy, pt or pth file.

    The file holds an image for each one of the cell, in the same order or with row numbers. What it says of clean
    images and labels must be true, and its images are audited as those of any attack. They adapt to nothing, so they
    are judged as static ones, or as transferred with ``access = ["transfer"]``.

    Args:
        target: not looked at.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: any norm and budget; set ``eps`` and ``norm`` to those that the images were made under.
        name: the file.
        images: those of the file that belong to ``x``.
        sha256: of the file, which is filled in; one that is given must be that of the file.
        array: the name of the images in the file, where it is none of the usual ones.

    Returns:
        The saved images.
    """
    return images
