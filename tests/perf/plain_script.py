"""What a user writes without a harness: load a network and images, attack them in batches, print what stays right."""

import importlib
import json
import sys

import numpy as np
import torch

from bench.models.resnet18 import resnet18

BATCH = 128


def attacked(package, name, parameters, net, x, y):
    if package == "torchattacks":
        return getattr(importlib.import_module(package), name)(net, **parameters)(x, y)
    foolbox = importlib.import_module(package)
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    return getattr(foolbox.attacks, name)(**parameters)(model, x, y, epsilons=None)[1]


def main(package, name, parameters, weights, images):
    net = resnet18(10).eval()
    net.load_state_dict(torch.load(weights, map_location="cpu"))
    arrays = np.load(images)
    x, y = torch.from_numpy(arrays["x"]).float() / 255, torch.from_numpy(arrays["y"]).long()
    right = 0
    for i in range(0, len(x), BATCH):
        rows = slice(i, i + BATCH)
        images_adv = attacked(package, name, json.loads(parameters), net, x[rows], y[rows])
        with torch.no_grad():
            right += int((net(images_adv).argmax(1) == y[rows]).sum())
    print("robust", 100 * right / len(x))


if __name__ == "__main__":
    main(*sys.argv[1:])
