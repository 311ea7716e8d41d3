"""The scan of a release: what is known to be wrong with its code and its dependencies, and a bill of materials.

Nothing of a plugin runs in here, and none of its source is parsed in the host's own process. A scan is never a
proof: a report without findings says that no known pattern was found. This package imports nothing by itself,
for parts of it run in children that have the standard library and no more.
"""
