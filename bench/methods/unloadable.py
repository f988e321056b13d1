"""What is said of a package or library that cannot be loaded; it needs none itself."""

from __future__ import annotations


def not_loaded(error: ImportError) -> str:
    """Return the one-line message for a package that is incomplete, too large for memory, or hidden by another."""
    package = f"{error.name or 'a package'}{f' ({error.path})' if error.path else ''}"
    message = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    what_to_do = remedy(str(error)) or "install it again, and check that PYTHONPATH has no other file of its name"
    return f"{package} cannot be loaded: {message}; {what_to_do}"


def remedy(message: str) -> str | None:
    """Return what to do where a library could not be loaded for want of memory or files; ``None`` for other reasons."""
    message = message.lower()
    # A file system from which nothing may be executed gives no segment either, and has memory.
    maps = "failed to map segment" in message and "not permitted" not in message
    # Of the storage of threads there is a fixed amount, whatever memory there is.
    if maps or ("cannot allocate memory" in message and "static tls" not in message):
        return "memory ran out: give the process more, such as by a larger limit (ulimit -v)"
    if "too many open files" in message:
        return "let the process have more files open (ulimit -n)"
    return None
