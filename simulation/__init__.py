"""A simulated network: hundreds of peers in one process, on a clock of their own, by one seed.

All of ``warren.network`` and ``warren.roles`` runs as it is, with its real cryptography; what is
made up is only what ``warren.peer.World`` names: connections, the time, chance and fresh keys,
and the disks. So a simulated hour costs a minute or two, whatever happens in it happens again
with the same seed, and a fault can be tried at the most awkward moment a thousand times.

    scenario      what is simulated, as values: seed, peers, time, faults
    clock         the time that jumps to the next event
    wire          connections in memory: latency, rates, and what breaks them
    chance        keys and dice from the seed
    disks         state folders in memory, which may be full
    nodes         authorities, relays and clients, put together as ``warren.node`` does it
    cast          who is in it: machines, the network file, all nodes
    targets       the machines that clients ask, and what they answer
    traffic       the applications, and what they expect
    faults        what goes wrong, as text and as deeds
    shared        what all peers work out alike, worked out once
    probes        what is looked at while it happens: nonces, paths, logged bugs
    invariants    what must hold all along, and at the end
    run           one simulation from the beginning to the end
    shrink        the shortest list of faults that still breaks it
    sweep         many seeds: in parallel, on a cluster, stopped and gone on with

``scripts/simulate --help`` says how to use it, ``docs/reliability.md`` what it found.
"""
