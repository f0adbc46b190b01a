"""Commands that print figures; not tests. `python -m tests.bench --help`."""
