"""The HTTP door; `server.py` puts its routes together."""
