from torch import Tensor

from attacks._corruptions import LEAST_SIDE, corrupted
from bench.api import Annotated, Field, Literal, MethodError, Target, Threat, attack


@attack(
    norms=("corruption",),
    needs="nothing",
    passes="0 forwards",
    folders={
        "photographs": {
            "choice": {"kind": "frost"},
            "files": ["frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"],
            "package": "imagecorruptions/frost",
        }
    },
)
def corruption(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
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
    ] = "gaussian_noise",
    severity: Annotated[int, Field(ge=1, le=5)] = 3,
    photographs: str = "",
) -> Tensor:
    """Common corruptions (Hendrycks and Dietterich, 2019): what cameras, weather and codecs do, without an adversary.

    Constants are those of the authors' scripts for CIFAR-10-C, Tiny ImageNet-C and ImageNet-C, chosen by the shorter
    side of the images: below 48 pixels, below 128, and above. As there, images have 8 bits before and after, and what
    comes out is rounded down. Noise, angles and the like are drawn for each image anew, so accuracies agree with those
    on the authors' files within chance and not to the digit. ``motion_blur`` and ``snow`` blur as ImageMagick does, and
    ``elastic_transform`` warps as OpenCV does, by shares of the side. ``frost`` lays parts of photographs over images.
    They are the authors' own, and come with the package ``imagecorruptions``, which is not imported:
    ``pip install --no-deps imagecorruptions``. The other kinds need nothing.

    All defenses on one classifier get the same images, those of static access, unless ``access`` says otherwise.

    Args:
        target: only its draws are used.
        x: images (N, C, H, W) in [0, 1], of 8 x 8 pixels or more.
        y: not looked at.
        threat: common corruptions; they have no budget, and no distance is bounded.
        kind: the corruption, as the authors call it.
        severity: from 1 to 5.
        photographs: a folder with those of ``frost``, frost1.png to frost3.png, frost4.jpg and frost5.jpg; without it
            those of the installed package. Other kinds take no notice of it.

    Returns:
        Images shaped as ``x``, of 8 bits a value.

    Raises:
        MethodError: the images are smaller, or a photograph cannot be read.
    """
    height, width = x.shape[2:]
    if min(height, width) < LEAST_SIDE:
        raise MethodError(f"images of {height}x{width}: corruptions need {LEAST_SIDE} pixels a side at least")
    return corrupted(target, x, kind, severity, photographs)
