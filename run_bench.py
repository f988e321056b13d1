import os
import signal

# While packages are loaded nothing is done yet, so Ctrl-C has nothing to break off in order.
if (before := signal.getsignal(signal.SIGINT)) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from bench.cli import main  # noqa: E402

signal.signal(signal.SIGINT, before)
raise SystemExit(main())
