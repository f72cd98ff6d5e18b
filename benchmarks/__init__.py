"""The project's own benchmark: what a user feels, beside what else they could run.

``scripts/bench`` starts a lab, with ``--peers`` also a private C Tor network and a chain of
three shadowsocks proxies, and puts the same questions to each in turn.

    figures       what is measured, its goals, and the arithmetic
    reactor       many sockets in one process: tasks that say what they wait for
    origin        the target, whose every byte is known
    route, client, bulk     the application: SOCKS5, transfers, many streams at once
    processes     processes that end with us
    accounting    who used the processors, and how much memory is whose
    namespace     a network with nobody else on it
    systems       what all systems under test have in common, and Warren's lab
    tor_network, tor_control, chain     two of what Warren is compared with
    peers         all of it, and the programs it takes
    measures      one function for each measure
    schedule      which system is asked what, and when
    results       what was found
    report, plot  as a table, and as a picture

It needs Linux, for ``/proc``, and nothing of it is imported by Warren.
"""
