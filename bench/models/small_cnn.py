from torch import Tensor, nn

from bench.api import Count, network


class SmallCNN(nn.Module):
    def __init__(self, num_classes: int, in_channels: int, height: int, width: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(2 * channels, 4 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * channels * (height // 4) * (width // 4), hidden),
            nn.ReLU(),
        )
        self.linear = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(x))
        return logits


@network()
def small_cnn(
    num_classes: int,
    *,
    in_channels: int = 3,
    image_size: int | tuple[int, int] = 32,
    channels: Count = 16,
    hidden: Count = 128,
) -> nn.Module:
    """Plain CNN of three convolutions, without batch norm, for digits and tests.

    Args:
        num_classes: length of a row of logits.
        in_channels: channels of the images.
        image_size: height and width of the images, or one number for both; 4 at least.
        channels: of the first convolution; the next two have twice and four times as many.
        hidden: units of the hidden linear layer.

    Returns:
        A network from images (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return SmallCNN(num_classes, in_channels, height, width, channels, hidden)
