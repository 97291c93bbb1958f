"""Sigmoid Core in other frameworks: one module each, imported only where it is used.

from sigmoidcore.integrations.lightning import SigmoidCoreCallback
from sigmoidcore.integrations.transformers import SigmoidCoreCallback
from sigmoidcore.integrations.sinks import CSV, scalars
"""
