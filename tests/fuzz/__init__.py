"""Coverage-guided fuzzing of whatever reads hostile bytes: ``python -m tests.fuzz --help``."""
