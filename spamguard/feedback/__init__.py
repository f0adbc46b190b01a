"""What users report and how it is recorded."""
