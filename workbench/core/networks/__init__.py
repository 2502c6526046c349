"""Small networks that are no transformers, with hook points: on vectors, sequences and images.

`architectures` says how they are built, `sources` opens the bundled ones by name, `mnist1d` and
`shapes` make the data that they were trained on, `training` holds the scripts that trained them.
"""
