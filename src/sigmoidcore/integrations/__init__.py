"""Sigmoid Core in other frameworks: one file each, imported only where it is used.

    from sigmoidcore.integrations.lightning import SigmoidCoreCallback
    from sigmoidcore.integrations.transformers import SigmoidCoreCallback
    from sigmoidcore.integrations.ignite import SigmoidCoreHandler
    from sigmoidcore.integrations.sinks import TensorBoard

Each needs the framework that it is for, and nothing else. docs/integrations.md shows all of them.
"""
