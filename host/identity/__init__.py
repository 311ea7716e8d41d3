"""Who calls: tokens and their roles, and how guesses are slowed."""
