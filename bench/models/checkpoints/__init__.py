"""Checkpoints trained elsewhere, as they lie around: found, read without running code, unwrapped and matched."""
