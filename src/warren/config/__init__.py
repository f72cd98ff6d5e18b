"""Configuration: a TOML file becomes frozen values, or an error that names file and key.

One file configures one process, which may have several sections; ``configs/`` has a commented
example of each role. ``file`` is all of it and how it is read, ``proxy`` and ``relay`` are its
large sections, ``values`` is what can stand behind a key. What the network must agree on is not
here but in the network file (``directory.network_file``), and ``testing = true`` there is the only
thing that makes ``allow_targets`` acceptable (EXT-16).
"""
