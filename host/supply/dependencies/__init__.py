"""What a plugin brings along: the lock that names it, getting it, reading it, and whether all of it fits together."""
