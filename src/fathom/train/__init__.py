"""Training: one YAML recipe in, a folder with checkpoints, curves and a model out.

`fathom.train.config` describes recipes, `fathom.train.fit.fit` runs one, `fathom.train.runs` compares finished ones. A
loss, a metric or a network can be used without any of this.
"""
