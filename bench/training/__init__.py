"""One recipe, one network: the training loop, its state to resume from, accuracies after each epoch.

May import: `evaluation`, `models`, `config` and what is below them.
Start at ``loop.train``; a recipe sees a training step as ``step`` gives it.
"""
