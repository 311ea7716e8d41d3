"""Releases from package indexes: which index may give what, how it is asked, and which of its files is taken.

Nothing here believes an index: it says where a release is, and the release's own signature says whether it is
installed. What an index can do is waste time and space, lie about what there is, and point elsewhere; that is bounded,
noticed and refused here.
"""
