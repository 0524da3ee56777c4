"""Trains detectors with the feature-richness losses of `frs_kernels`; `python -m frs_train --help`.

The layers, lowest first. A module imports from its own layer and from those listed before it, and no imports
form a circle, function-level ones included:

    errors text interrupt
    options
    config
    distributed machine streams recipes
    files log
    data
    detectors
    evaluation
    training
    report
    study
    demo
    cli
    __main__
"""
