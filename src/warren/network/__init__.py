"""Bytes and cells in motion: sockets, links, circuits, streams, names. On trio."""
