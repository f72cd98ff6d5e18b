"""Warren: a volunteer onion-routing network.

One sentence: a stream comes in at ``roles.proxy``, travels as cells through ``protocol`` and
``network``, and leaves at ``roles.exit``; ``directory`` says who is there.

The floors; imports go down only, and never sideways between ``protocol`` and ``directory``::

    doors      cli  node  lab  workers  programs  run  serving  peer  status  ...  start it, ask it
    roles      proxy  client  pool    relay  exit    authority  mirror
    network    byte_streams  links  circuits  streams  names             (trio)
    pure       protocol            |            directory     (no I/O, no clock, no chance)
    ground     errors  config_errors  addresses  identity  storage  key_files

The way of a byte; the way back is the same table read upwards:

==  =======================================  ======================================
1   ``roles.proxy``, ``roles.quick_way``     an application's connection becomes a request
2   ``roles.client``, ``roles.pool``         the request becomes a stream on a circuit
3   ``network.splice``                       carries bytes between the two
4   ``protocol.stream``, ``outbox``          cut bytes into relay messages, within credit
5   ``protocol.circuit_end``, ``onion``      seal messages into a cell, one layer per hop
6   ``protocol.link``, ``network.link``      batch cells into records on a socket
7   relay: ``network.links`` and back        takes one layer off, passes the cell on
8   exit: ``roles.exit``                     hands the bytes to the target
==  =======================================  ======================================

Start reading at ``protocol.cells``, or at ``roles.proxy`` and follow a stream.
"""

__version__ = "0.1.0.dev0"
