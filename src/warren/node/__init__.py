"""The roles as processes: what the command line has read becomes a running peer.

``proxy``, ``relay`` and ``authority`` each have one function that runs until it is cancelled. It
holds its state folder against a second process, announces where it listens, and answers at its
control socket: ``process`` has what is the same for all. The roles themselves know no
configuration files, no folders of others and no command line; here they are put together, and
this is where to look for who owns what. What only one role needs is imported by those who are
one: a proxy should answer as soon as it is started, and a relay keeps no proxy in its memory.
"""
