"""`python -m spamguard` is the command line."""

from spamguard.cli import main

if __name__ == "__main__":
    main()
