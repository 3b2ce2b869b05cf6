"""The engine: one thread that owns the model and writes for many conversations at once.

It knows tokens, prompts and text; it knows nothing of databases, sockets or QQ.
"""
