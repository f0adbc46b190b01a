"""Model versions on disk and the processes that score with them. No torch in here."""
