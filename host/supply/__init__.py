"""From wheel to verified code: signatures, trust, strict reading of wheels, the release store, the install.

Nothing of an archive is parsed before its signature holds, and nothing of a plugin runs in here.
"""
