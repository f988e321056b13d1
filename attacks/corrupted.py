from torch import Tensor

from bench.api import Annotated, Field, Literal, Target, Threat, library


@library(prefix="corrupted", passes="0 forwards", norms=("corruption",), reads_images=True, file="{kind}.npy")
def corrupted(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    name: str,
    images: Tensor,
    kind: Literal[
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "defocus_blur",
        "glass_blur",
        "motion_blur",
        "zoom_blur",
        "snow",
        "frost",
        "fog",
        "brightness",
        "contrast",
        "elastic_transform",
        "pixelate",
        "jpeg_compression",
        "speckle_noise",
        "gaussian_blur",
        "spatter",
        "saturate",
    ] = "gaussian_noise",
    severity: Annotated[int, Field(ge=1, le=5)] = 3,
    sha256: str = "",
) -> Tensor:
    """Common corruptions (Hendrycks and Dietterich, 2019) from the files of CIFAR-10-C or CIFAR-100-C.

    ``corrupted:CIFAR-10-C`` is the folder of their authors, which holds ``fog.npy`` and the like, each with all test
    images at severities 1 to 5, and ``labels.npy``. The set of the table is the one without corruptions, ``cifar10``:
    each of its images is replaced by its corrupted copy, and labels that differ are refused. So these columns stand
    beside those of adversarial attacks. The images adapt to nothing, so they are static, or transferred.

    Args:
        target: not looked at.
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        threat: common corruptions; they have no budget, and no distance is bounded.
        name: the file.
        images: those of the file that belong to ``x``.
        kind: the corruption, as its file is called; the last four are not counted in a mean corruption error.
        severity: from 1 to 5.
        sha256: of the file, which is filled in; one that is given must be that of the file.

    Returns:
        The corrupted images.
    """
    return images
