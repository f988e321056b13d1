import os
import signal
import sys

# While packages are loaded nothing is done yet, so Ctrl-C has nothing to break off in order.
if (before := signal.getsignal(signal.SIGINT)) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from bench.methods.unloadable import not_loaded  # noqa: E402

try:
    from bench.cli import main
except ImportError as error:
    print(f"error: {not_loaded(error)}", file=sys.stderr)
    raise SystemExit(2) from None

signal.signal(signal.SIGINT, before)
raise SystemExit(main())
