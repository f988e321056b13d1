import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Count, network


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, each convolution followed by batch norm."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(Block(width, width, 1), Block(width, width, 1))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(Block(4 * width, 8 * width, 2), Block(8 * width, 8 * width, 1))
        self.linear = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.layer4(self.layer3(self.layer2(self.layer1(y))))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))
        return logits


@network()
def resnet18(num_classes: int, *, in_channels: int = 3, width: Count = 64) -> nn.Module:
    """ResNet-18 for small images (He et al., 2016): a 3x3 stem of stride 1 and no max-pool.

    At the defaults it has 11.17 M parameters and 555 M multiply-adds per 32x32 image. Any image size will do: the
    last feature map is averaged.

    Args:
        num_classes: length of a row of logits.
        in_channels: channels of the images.
        width: channels of the first stage; each later stage doubles them.

    Returns:
        A network from images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).
    """
    return ResNet18(num_classes, in_channels, width)
