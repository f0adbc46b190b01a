"""SpamGuard: a mail-filter daemon that judges mail with a quantized BERT.

Importing the package is cheap on purpose: no torch, no model, no sockets.
"""

__version__ = "0.1.0"
