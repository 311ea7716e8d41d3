"""HTTP in processes of its own, where the machine has processors for it.

The host accepts every connection, counts it, and may hand it to one of these processes when a request comes that
publishes events and is of the ordinary kind (`ordinary.py`). The process parses, checks and answers, and has the host
append the events, many at a time. At whatever else comes it hands the connection back, with the bytes it has read, and
the host goes on as if they had come to it. So there is one way in which anything but ordinary publishing is served, no
request is written anew for somebody else to read, and a host without these processes lacks nothing but speed.
"""
