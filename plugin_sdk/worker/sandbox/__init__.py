"""The sandbox of a worker: what a process gives up for good before it imports a plugin.

It needs nothing but the standard library, so that a worker that starts cold is confined before it looks at any
folder that a plugin's author has filled. `confinement` is the entry; `landlock`, `seccomp`, `namespaces` and
`privileges` are the parts, each of which works or says why it cannot.
"""
