"""Attacks, one file each, in one vocabulary.

``x_orig`` are the clean images, ``x_adv`` the current iterate, ``x_best`` what each image keeps, with its
``best_loss``, ``best_margin`` or ``best_l2``. ``active`` are the positions of the images still attacked, ``is_adv``
says which iterates are misclassified. ``loss_fn`` gives ``loss``, ``grad`` and ``logits``, and ``delta`` is
``x_adv - x_orig``. ``alpha`` is the step size, ``eta`` that of Auto-PGD and Frank-Wolfe.
"""
