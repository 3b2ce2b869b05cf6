"""Carries messages between QQ (OneBot 11) and a qqmem service, whichever end drops or is killed."""

__version__ = "0.1.0"
