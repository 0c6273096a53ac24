"""Training the networks that are then verified: one seeded loop, and one objective for each way of training.

An `Architecture` (`architecture`) is a frozen description: an input shape and `layers`, each of which knows its shape,
its parameters, its torch form and its ONNX form. `loop.train` minimises an *objective* - a callable (classifier, batch,
labels, generator) -> loss - over the parameters of such a network and gives back a `Classifier`; its `onnx()` is the
file that is verified. `standard` is plain cross-entropy, `noise` Gaussian noise augmentation, `adversarial` training on
PGD's inputs. A further way of training is a further objective, a further kind of layer a further class.

Every random number comes from one `torch.Generator` seeded by the caller; torch's global random state is neither read
nor advanced. The modules here import torch (the extra `verifkit[torch]`); this package itself does not, and nothing
else in verifkit imports them.
"""
