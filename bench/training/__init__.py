"""One recipe, one network: the training loop, its state to resume from, accuracies after each epoch.

May import: `evaluation`, `models`, `data`, `config`, `store`, `registry`, `process`, `draws`, `keys`, `types`.
Start at ``loop.train``; a recipe sees a training step as ``step`` gives it.
"""
