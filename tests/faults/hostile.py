"""Methods that never come back, or take the process with them, each in its own way.

They do so where ``$HOSTILE`` is a folder without a file ``calm``, and leave a file ``begun`` in it.
"""

import contextlib
import ctypes
import os
import re
import resource
import signal
import threading
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from bench.api import attack, defense
from bench.models.small_cnn import small_cnn

_FOLDER = Path(os.environ["HOSTILE"]) if "HOSTILE" in os.environ else None


def python():
    while True:
        pass


def sleep():
    time.sleep(1e6)


def swallow():
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(1e6)


def spin():
    """Swallows as well, and never waits."""
    while True:
        with contextlib.suppress(BaseException):
            while True:
                pass


def finally_():
    try:
        time.sleep(1e6)
    finally:
        time.sleep(1e6)


def gil():
    sum(range(10**12))


def regex():
    re.match(r"(a+)+$", "a" * 60 + "b")


def power():
    len(str(10**10**9))


def operation():
    x = torch.rand(20000, 20000)
    (x @ x).sum()


def blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(1e6)


def handlers():
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    time.sleep(1e6)


def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)


def lock():
    held = threading.Lock()
    held.acquire()
    held.acquire()


def files():
    os.closerange(3, 1000)
    time.sleep(1e6)


def everything():
    """Nobody hears any more why the process ends."""
    os.closerange(0, 1000)
    raise SystemExit(7)


def silence():
    """Comes back, but without the files of the process."""
    os.closerange(0, 1000)


def nowhere():
    """Comes back, but what is printed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def unprinted():
    os.close(1)


def prints():
    print("on a full disk", flush=True)


def crossed():
    """Comes back, but what is printed goes to standard error."""
    os.dup2(2, 1)


def seventy():
    """Leaves as a process does from which its streams were taken, which keeps them."""
    ctypes.CDLL(None)._exit(70)


def limits():
    """Comes back, but no file can be opened or written any more."""
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (0, resource.getrlimit(limit)[1]))


def limits_for_good():
    """The hard limit too; as root, without the right to raise it again."""
    libc = ctypes.CDLL(None)
    head, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(head, data)
    sys_resource = 24
    data[0] &= ~(1 << sys_resource)
    libc.capset(head, data)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def copy():
    """Leaves a copy of the process, in a session of its own, which ends nothing and which nobody ends."""
    if (left := os.fork()) == 0:
        os.setsid()
        time.sleep(1e6)
    (_FOLDER / "left").write_text(str(left))
    time.sleep(1e6)


def thread():
    """Comes back, but leaves a thread for which Python waits at its end."""
    threading.Thread(target=time.sleep, args=(1e6,)).start()


def segmentation():
    ctypes.string_at(0)


def abort():
    ctypes.CDLL(None).abort()


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    ctypes.CDLL(None)._exit(0)


#: What never comes back, and what takes the process with it.
ENDLESS = (
    python, sleep, swallow, spin, finally_, gil, regex, power, operation, blocked, handlers, stopped, lock, files,
)  # fmt: skip
DEADLY = (segmentation, abort, killed, leave, seventy)


def harm(fault):
    if _FOLDER is not None and not (_FOLDER / "calm").exists():
        (_FOLDER / "begun").touch()
        globals()[fault]()


@attack(norms=("linf",), passes="0 forwards")
def hostile(target, x, y, threat, *, fault: str = "sleep"):
    """Never comes back."""
    harm(fault)
    return x


@defense(kind="test-time")
class Hostile:
    """Never answers; or, where ``when`` says so, is never put on."""

    def __init__(self, *, fault: str = "sleep", when: str = "answer"):
        self.fault, self.when = fault, when

    def wrap(self, net):
        if self.when == "wrap":
            harm(self.fault)
        return _Answers(net, self.fault if self.when == "answer" else None)

    def surrogate(self, net):
        return _Answers(net, None)


class _Answers(torch.nn.Module):
    def __init__(self, net, fault):
        super().__init__()
        self.net, self.fault = net, fault

    def forward(self, x):
        if self.fault is not None:
            harm(self.fault)
        return self.net(x)


@defense(kind="recipe")
def endless(step, x, y, *, fault: str = "sleep"):
    """Never has a loss."""
    harm(fault)
    return F.cross_entropy(step.net(x), y)


class _Net(torch.nn.Module):
    def __init__(self, fault, **words):
        super().__init__()
        self.fault, self.net = fault, small_cnn(**words)

    def forward(self, x):
        harm(self.fault)
        return self.net(x)


def network(num_classes, *, in_channels: int = 3, image_size: int = 32, fault: str = "sleep"):
    return _Net(fault, num_classes=num_classes, in_channels=in_channels, image_size=image_size, channels=4, hidden=16)


def factory(num_classes, *, in_channels: int = 3, image_size: int = 32, fault: str = "sleep"):
    harm(fault)
    return small_cnn(num_classes, in_channels=in_channels, image_size=image_size, channels=4, hidden=16)
