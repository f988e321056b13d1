"""From the name of a network to the network: registered ones, a user's own file, and those of other libraries."""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic import ValidationError

from bench.data.room import available_memory, gib
from bench.keys import sha256_hex
from bench.methods.factories import is_own_too
from bench.methods.sources import release
from bench.models import huggingface, live, weights
from bench.registry import LIVE, entry_of, explain, find, unknown
from bench.store.account import spending
from bench.types import INITIAL_SHA, NETWORK_KEYS, MethodRef, Scalar, UsageError, located, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.models.libraries import Opened

#: Of each weight while it is trained: itself, its gradient and its momentum.
_COPIES = 3
LIBRARIES = ("torchvision", "timm", "robustbench", "huggingface")
#: Packages, where they are not called like the library.
_PACKAGES = {"huggingface": "transformers"}
_log = logging.getLogger("crossfire")
_SAID: set[str] = set()
_KEYS_BY_NAME = {name: key for key, name in NETWORK_KEYS.items()}


def network_ref(arch: str, params: Mapping[str, Scalar]) -> MethodRef:
    """Return the reference of a network with every parameter spelled out; torch is not imported.

    Args:
        arch: a registered name, ``path/to/file.py:factory``, or ``torchvision:``, ``timm:``, ``robustbench:`` or
            ``huggingface:`` with the name that the library gives it, or with the folder where a Hugging Face model is.
        params: keyword arguments, and what surrounds the network, under the names of
            :data:`bench.types.NETWORK_KEYS`. ``pretrained = true`` takes the weights that torchvision or timm offers;
            robustbench always does, and takes ``dataset`` and ``threat_model``. Such weights stay as they are under
            the recipe ``standard`` with ``epochs = 0``.

    Raises:
        UsageError: an unknown network or parameter, a value out of range, or a package that is not installed.
    """
    own, around = _divided(params)
    ref = _named_ref(arch, own, around)
    if not around:
        return ref
    surrounding = {NETWORK_KEYS[key]: value for key, value in around.items()}
    if "initial_key" in around and "initial_weights" not in around:
        raise UsageError(
            f"network '{arch}': initial_key chooses among the state dicts of initial_weights, which it lacks"
        )
    if "initial_weights" in around:
        file = weights.inspect(f"weights:{around['initial_weights']}")
        if file.problem is not None:
            raise UsageError(f"initial_weights: {file.problem.removeprefix('weights:')}")
        surrounding[INITIAL_SHA] = file.sha256
    return ref.model_copy(update={"params": {**ref.params, **surrounding}})


def score_network_ref(arch: str, params: Mapping[str, Scalar]) -> MethodRef:
    """Return the reference of a network that predicts noise, with every parameter spelled out.

    Args:
        arch: a registered name or ``path/to/file.py:factory``.
        params: its parameters.

    Raises:
        UsageError: there is no such network or parameter, or a value is out of range.
    """
    return find("score-network", arch).ref(params, name=arch)


def code_of(network: MethodRef) -> str:
    """Return the hash of the code that a network, other than an ensemble, has now.

    Raises:
        UsageError: there is no such network.
    """
    own, _ = _divided(network.params)
    return network_ref(network.name, own).code_sha


def ensemble_ref(members: Sequence[MethodRef], combine: str) -> MethodRef:
    """Return the reference of an ensemble, called ``2 x resnet18 + vgg16``.

    Args:
        members: what :func:`network_ref` returned for each, in order.
        combine: see :class:`bench.models.ensemble.Ensemble`.

    Raises:
        pydantic.ValidationError: its name is too long for a result.
    """
    counts = [(name, len(list(same))) for name, same in groupby(member.name for member in members)]
    return MethodRef(
        kind="network",
        name=" + ".join(name if count == 1 else f"{count} x {name}" for name, count in counts),
        params={"combine": combine},
        code_sha=sha256_hex("ensemble", *(member.code_sha for member in members)),
        members=tuple(members),
    )


def has_card(arch: str) -> bool:
    """Say whether a network normalises images as the card of its library's model says, unless a configuration does."""
    library, colon, _ = arch.partition(":")
    return bool(colon) and ".py:" not in arch and not arch.startswith(LIVE) and library != "robustbench"


def _named_ref(arch: str, params: dict[str, Scalar], around: Mapping[str, Scalar]) -> MethodRef:
    library, colon, name = arch.partition(":")
    if arch.startswith(LIVE):
        return live.network_ref(arch)
    if not colon or ".py:" in arch:
        entry = find("network", arch)
        if clash := sorted(around.keys() & entry.parameters.model_fields.keys()):
            raise UsageError(f"network '{arch}': {is_own_too(clash[0])}")
        return entry.ref(params, name=arch)
    if library not in LIBRARIES:
        raise UsageError(unknown("network library", library, LIBRARIES))
    if not name:
        raise UsageError(f"network '{arch}' lacks the name of a model, as in '{library}:resnet50'")
    package = _PACKAGES.get(library, library)
    try:
        code = sha256_hex(library, release(package))
    # Other packages bundle a robustbench that can load nothing: only a pip-installed one counts.
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"network '{arch}' needs a package: pip install {package}") from None
    if library == "huggingface":
        params, code = huggingface.reference(arch, name, params, code)
    try:
        return MethodRef(kind="network", name=arch, params=params, code_sha=code)
    except ValidationError as error:
        raise UsageError(explain(error, where=f"network '{arch}'", known=())) from None


def _divided(params: Mapping[str, Scalar]) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
    """Return the parameters of a network itself, and what surrounds it under the keys of its configuration."""
    own = {name: value for name, value in params.items() if name not in _KEYS_BY_NAME and name != INITIAL_SHA}
    return own, {_KEYS_BY_NAME[name]: value for name, value in params.items() if name in _KEYS_BY_NAME}


def normalised_with(network: MethodRef, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the means and standard deviations that a configuration gives for a network; ``None`` if it gives none.

    Args:
        network: what :func:`network_ref` returned.
        channels: of the images.

    Raises:
        UsageError: there are neither one number nor as many as channels.
    """
    texts = [network.params.get(NETWORK_KEYS[key]) for key in ("mean", "std")]
    if texts == [None, None]:
        return None
    try:
        mean, std = (tuple(float(number) for number in str(text).split()) for text in texts)
    except ValueError:
        raise UsageError(f"network '{network.name}': its mean and std are no numbers") from None
    for key, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (1, channels):
            raise UsageError(
                f"network '{network.name}': {key} has {len(numbers)} numbers, the images have {channels} "
                f"channel{'s' * (channels != 1)}"
            )
    return mean, std


@spending("networks")
def build(
    network: MethodRef, num_classes: int, image_shape: tuple[int, int, int], *, is_trained: bool = False
) -> nn.Module:
    """Return the network with its initial (or, if requested, its library's) weights, in training mode.

    The initial weights are drawn from torch's global generator: seed it before. The call leaves it as it was.

    Args:
        network: what :func:`network_ref` or :func:`ensemble_ref` returned.
        num_classes: length of a row of logits.
        image_shape: channels, height and width of the images.
        is_trained: whether its weights are there already, so that memory for gradients and momenta is not needed.

    Raises:
        UsageError: the library does not know the model or the parameter, a factory cannot be called or makes no new
            network, or the network cannot take these images or does not give a logit for each class.
        MethodError: a factory or its network tried to end the process.
    """
    from bench.process.isolation import isolated

    # Of what does not work out the error says more, and in one line.
    with isolated(f"network {network.name}"), warnings.catch_warnings(record=True):
        if network.kind == "score-network":
            return _score_network(network, num_classes, image_shape, is_trained=is_trained)
        if not network.members:
            return _checked(network, num_classes, image_shape, is_trained=is_trained)
        from bench.models.ensemble import Ensemble

        members = [_checked(each, num_classes, image_shape, is_trained=is_trained) for each in network.members]
        return Ensemble(members, str(network.params.get("combine")))


def _score_network(
    network: MethodRef, num_classes: int, image_shape: tuple[int, int, int], *, is_trained: bool
) -> nn.Module:
    """Raises UsageError: the network cannot take these images, predicts no noise for them, or has no schedule."""
    import torch

    net = _opened(network, num_classes, image_shape, {}, is_trained=is_trained).net.eval()
    device = next((parameter.device for parameter in net.parameters()), None)
    try:
        with torch.no_grad():
            noise = net(torch.zeros(2, *image_shape, device=device), torch.ones(2, dtype=torch.int64, device=device))
    except Exception as error:
        shape = "x".join(map(str, image_shape))
        why = error if isinstance(error, UsageError) else _reason(error, net)
        raise UsageError(f"network '{network.name}' cannot take images of {shape}: {why}") from error
    if not isinstance(noise, torch.Tensor) or noise.shape != (2, *image_shape):
        raise UsageError(f"network '{network.name}' returns no noise shaped as the images that it is given")
    if not isinstance(getattr(net, "alpha_bar", None), torch.Tensor):
        raise UsageError(f"network '{network.name}' has no buffer alpha_bar, its noise schedule")
    return net.train()


def _checked(network: MethodRef, num_classes: int, image_shape: tuple[int, int, int], *, is_trained: bool) -> nn.Module:
    import torch
    from torch.nn.parameter import is_lazy

    from bench.models.adapted import problem_of

    net = _adapted(network, num_classes, image_shape, is_trained=is_trained).eval()
    device = next((parameter.device for parameter in net.parameters()), None)
    # Lazy ones are made by the first image; on the meta device there are no numbers.
    buffers = {name: each.clone() for name, each in net.named_buffers() if not is_lazy(each) and not each.is_meta}
    try:
        # One image: the parameters of lazy modules are made by it, and a mismatch is reported before any work.
        with torch.no_grad():
            logits = net(torch.zeros(1, *image_shape, device=device))
    except UsageError as error:
        raise UsageError(f"network '{network.name}': {error}") from error
    except Exception as error:
        shape = "x".join(map(str, image_shape))
        raise UsageError(f"network '{network.name}' cannot take images of {shape}: {_reason(error, net)}") from error
    if changed := [name for name, each in net.named_buffers() if name in buffers and _differ(each, buffers[name])]:
        raise UsageError(
            f"network '{network.name}' changes its buffer {changed[0]} in evaluation mode, so its answers may depend "
            "on earlier images; change it only while self.training is true"
        )
    one_logit = NETWORK_KEYS["one_logit"] in network.params
    if (problem := problem_of(logits, num_classes, one_logit=one_logit)) is not None:
        raise UsageError(f"network '{network.name}' {problem}")
    if (file := network.params.get(NETWORK_KEYS["initial_weights"])) is not None:
        _load(network, str(file), net)
    return net.train()


def _load(network: MethodRef, file: str, net: nn.Module) -> None:
    """Raises UsageError: the initial weights have changed since they were hashed, or do not fit."""
    with located(f"network '{network.name}': initial_weights (with initial_key as key)"):
        path = weights.find(f"weights:{file}")
        if weights.sha256(path) != network.params.get(INITIAL_SHA):
            raise UsageError(f"{path} has changed since the plan was made; run it again")
        key = network.params.get(NETWORK_KEYS["initial_key"])
        remarks = weights.load(path, net, None if key is None else str(key))
        for remark in (*remarks, *weights.card_remarks(path, network, net)):
            # A network is built several times.
            if remark not in _SAID:
                _log.warning("%s", remark)
                _SAID.add(remark)
        weights.check_finite(path, net)


def _differ(buffer: Tensor, before: Tensor) -> bool:
    return buffer.shape != before.shape or not bool(((buffer == before) | (before != before)).all())


def _reason(error: Exception, net: nn.Module) -> str:
    """Return why a network could not take images, in one line."""
    lines = text_of(error).strip().splitlines() or [type(error).__name__]
    # What torch.jit raises ends with the reason.
    reason = lines[-1] if "TorchScript interpreter" in lines[0] else lines[0]
    if other := sorted({str(each.dtype) for each in net.parameters()} - {"torch.float32"}):
        return (
            f"{reason}; images are float32, weights {', '.join(other)}: convert images in its forward, or its weights "
            "with net.float()"
        )
    return reason


def _adapted(network: MethodRef, num_classes: int, image_shape: tuple[int, int, int], *, is_trained: bool) -> nn.Module:
    """Return the network with what its configuration, or its library's card, says of images and outputs."""
    import torch

    from bench.models.adapted import Adapted, Normalisation, plain

    params, around = _divided(network.params)
    own = network.model_copy(update={"params": params})
    opened = _opened(own, num_classes, image_shape, around, is_trained=is_trained)
    net, normalisation = plain(opened.net), opened.normalisation
    if (given := normalised_with(network, image_shape[0])) is not None:
        normalisation = Normalisation(*given)
    elif opened.problem is not None:
        raise UsageError(opened.problem)
    output = str(around["output"]) if "output" in around else opened.output
    # A copy of one has weights that cannot be frozen.
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise UsageError(f"network '{network.name}' holds TorchScript; return the torch.nn.Module that it was made of")
    if normalisation is None and output is None and "one_logit" not in around:
        return net
    return Adapted(net, normalisation, output=output, one_logit="one_logit" in around)


def _opened(
    network: MethodRef,
    num_classes: int,
    image_shape: tuple[int, int, int],
    around: Mapping[str, Scalar],
    *,
    is_trained: bool,
) -> Opened:
    from bench.models.factory import make
    from bench.models.libraries import Opened, open_network

    library, colon, name = network.name.partition(":")
    if network.name.startswith(LIVE):
        return Opened(live.copy_of(network.name), None)
    if colon and ".py:" not in network.name:
        return open_network(library, name, dict(network.params), num_classes, image_shape)
    entry = entry_of(network)
    factory, params = entry.load(), entry.arguments(network.params)
    # A user's own factory may do more than make a network, and is called once.
    if entry.use is None:
        made = partial(make, network.name, factory, num_classes, image_shape, params)
        _require_room(network.name, made, is_trained=is_trained)
    return Opened(make(network.name, factory, num_classes, image_shape, params, around), None)


def _require_room(name: str, make: Callable[[], nn.Module], *, is_trained: bool) -> None:
    """Raises UsageError: the weights of a network, while it is trained with gradients and momenta, do not fit."""
    import torch

    # On this device parameters have shapes and nothing else.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        weights = sum(each.numel() * each.element_size() for each in make().parameters())
    needed, available = weights if is_trained else _COPIES * weights, available_memory()
    if needed > available:
        training = "" if is_trained else f"; to train it takes {gib(needed)}"
        raise UsageError(
            f"network '{name}' has weights of {gib(weights)}{training}, and {gib(available)} of memory are available"
        )
