"""The desired state: which plugins, which releases of them, enabled or not, with which config, grants and policies.

Whoever administers changes it, and nothing else; who makes it true lives above.
"""
