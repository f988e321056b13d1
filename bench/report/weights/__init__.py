"""Trained networks of a store, written for others: safetensors in parts, with a card, the log and the curve.

Start at ``kept.trainings``: what a store has, finished or not. ``parts`` writes tensors, ``card`` says what they are.
"""
