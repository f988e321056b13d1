import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Count, network
from bench.models.resnet18 import Block


class SmallResNet(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = nn.Sequential(
            Block(width, width, 1),
            Block(width, 2 * width, 2),
            Block(2 * width, 4 * width, 2),
            Block(4 * width, 4 * width, 1),
        )
        self.linear = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(F.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))
        return logits


@network()
def small_resnet(num_classes: int, *, in_channels: int = 3, width: Count = 24) -> nn.Module:
    """Residual network of four blocks with batch norm, which a processor can train on all of CIFAR-10.

    Ten layers; the stem, the second and the third block halve the image. At the defaults it has 0.34 M parameters and
    9.6 M multiply-adds per 32x32 image, where ``resnet18`` has 555 M. Any image size will do: the last feature map is
    averaged.

    Args:
        num_classes: length of a row of logits.
        in_channels: channels of the images.
        width: channels of the stem and the first block; the second has twice, the last two have four times as many.

    Returns:
        A network from images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).
    """
    return SmallResNet(num_classes, in_channels, width)
