"""The doors mail comes in by. Each turns bytes into (Envelope, raw) and renders an Action."""
