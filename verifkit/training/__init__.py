"""Training the networks that are then verified: one seeded loop, and one objective for each way of training.

`loop.train` minimises an *objective* - a callable (layers, batch, labels, generator) -> loss - over the parameters of
a network (`dense` so far). `standard` is plain cross-entropy, `noise` Gaussian noise augmentation. A further way of
training is a further objective.

Every random number comes from one `torch.Generator` seeded by the caller; torch's global random state is neither read
nor advanced. The modules here import torch (the extra `verifkit[torch]`); this package itself does not, and nothing
else in verifkit imports them.
"""
