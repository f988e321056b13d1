import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Count, network

# Multiples of the width; 0 is a 2x2 max-pool.
_PLAN = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8, 0)


class VGG(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for multiple in _PLAN:
            if not multiple:
                layers.append(nn.MaxPool2d(2))
                continue
            out = multiple * width
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))
        return logits


@network()
def vgg16(num_classes: int, *, in_channels: int = 3, width: Count = 64) -> nn.Module:
    """VGG-16 with batch norm and one linear layer (Simonyan and Zisserman, 2015, as used on CIFAR-10).

    At the defaults it has 14.73 M parameters and 313 M multiply-adds per 32x32 image. Images of 32x32 or more: the
    last feature map is averaged, which changes nothing at 32x32.

    Args:
        num_classes: length of a row of logits.
        in_channels: channels of the images.
        width: channels of the first stage; the last has eight times as many.

    Returns:
        A network from images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).
    """
    return VGG(num_classes, in_channels, width)
