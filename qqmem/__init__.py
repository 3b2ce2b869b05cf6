"""qqmem: a QQ chatbot whose model decides by itself when it needs a memory."""

__version__ = "0.1.0"
