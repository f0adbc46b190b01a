"""Sans-io codecs: bytes to values and back. No asyncio, no socket, no logging in here."""
