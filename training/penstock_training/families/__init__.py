"""Router families: ways of estimating every arm's quality from a prompt's vector and form.

Each fits a *head* (`penstock_training.families.head.Head`): an object that predicts raw quality in NumPy and writes the
same arithmetic into an ONNX graph. What all families share (novelty, standard errors, calibration, lengths, category)
is the frame's affair. Read `penstock_training.families.registry`.
"""
