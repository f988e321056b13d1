import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Count, network


class Block(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; the shortcut starts behind the first ReLU."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = None if channels == out else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(y)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(y)))) + kept
        return out


class WideResNet(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, depth: int, widen: int) -> None:
        super().__init__()
        blocks, channels = (depth - 4) // 6, 16
        self.conv1 = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
        stages = []
        for out, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
            stages.append(nn.Sequential(Block(channels, out, stride), *(Block(out, out, 1) for _ in range(blocks - 1))))
            channels = out
        self.block1, self.block2, self.block3 = stages
        self.bn1 = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))
        return logits


@network()
def wrn_34_10(num_classes: int, *, in_channels: int = 3, widen: Count = 10) -> nn.Module:
    """WideResNet-34-10 (Zagoruyko and Komodakis, 2016), without dropout, as TRADES and MART use it.

    At the defaults it has 46.16 M parameters and 6.66 G multiply-adds per 32x32 image. Any image size will do: the
    last feature map is averaged.

    Args:
        num_classes: length of a row of logits.
        in_channels: channels of the images.
        widen: channels of the three stages are 16, 32 and 64 times this.

    Returns:
        A network from images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).
    """
    return WideResNet(num_classes, in_channels, 34, widen)
