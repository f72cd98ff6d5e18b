"""What the bytes mean: handshakes, links, cells, circuits, streams, SOCKS and HTTP. All pure."""
