"""A relay on several cores: one main process, and workers that carry its circuits.

The main process holds what there can be only one of: the state folder, the keys and their
change, publishing, fetching, the control socket, the listening socket. It accepts connections
and hands each to a worker (``foreman``). A worker has links, circuits, mirror and exit
(``worker``), and writes no file. They talk over a unix socket (``channel``); what is the whole
relay's is divided and what they count is added up in ``shares``. See decision 12.
"""
