"""archlab: declare, search, train and export sequence-model architectures."""

__version__ = "0.1.0"
