"""Property tests have no deadline: the machine may be busy, and what must be fast has its own test."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
