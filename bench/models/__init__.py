"""Networks, one file each: images NCHW float32 in [0, 1] to logits, normalisation inside."""
