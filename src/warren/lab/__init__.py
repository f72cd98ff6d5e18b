"""A whole network on this machine, every peer a process of its own.

``plan`` decides what there is and writes the configuration, ``children`` starts processes and
ends them, ``scratch`` is where their files lie, ``laboratory`` runs it all, and ``demo`` shows from
outside that it does what it says, with ``downloads`` as its application and ``origin`` as the
target. ``impairment`` puts a long, slow or lossy ``line`` in front of a relay.

Nothing below this floor knows that it runs in a lab: all that differs is configuration.
"""
