"""trimtab: align small language models, and know whether it helped."""

__version__ = "0.1.0"
