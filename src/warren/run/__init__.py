"""One command in a network of its own, out of which only the proxy leads (Linux).

Without root and without a TUN device. Four processes::

    waiter     warren run itself: waits for the command, gives it signals, ends as it ended
    command    in new user, network and mount namespaces; every address in there is local
    sockets    makes sockets in the command's network when the gateway asks for one
    gateway    in the network of the machine: accepts what the command opens, asks the proxy for it

The kernel holds the command's ``connect`` until the gateway listens at the very address and port
that it names (``filter``, ``notifications``), so the kernel itself connects the two and no
program notices anything. Names get synthetic addresses (``names``), which the gateway turns back,
so that they are resolved at the exit. That nothing leaks rests on none of this: the namespace has
no device but its own loopback, and what nobody listens for is refused in there.
"""
