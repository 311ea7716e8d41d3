"""What a plugin may ask of its host: emit, call services of others, keep keys and values; each against its grants."""
