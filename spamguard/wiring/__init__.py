"""How mail servers are told of SpamGuard: `spamguard setup`, and what `spamguard doctor` reads."""
