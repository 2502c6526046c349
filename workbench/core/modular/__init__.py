"""Networks that learn an operation modulo a prime: the task, the network, its training, its waves.

- `tasks`: which pairs there are, what the answers are, which of them are trained on
- `recipe`: every hyperparameter of a training, and the published set-ups by name
- `network`: the one-layer transformer in tables, for several seeds at once
- `loss`: its loss and gradient in one pass over pieces that stay in the processor's cache
- `training`: the loop, with exact resume
- `run`: a training on disk, and its checkpoints as models
- `bundle`: such a network as a model folder
- `theory`: tasks that are addition in a cyclic group
- `fourier`: how much of a network is waves over that group
"""
