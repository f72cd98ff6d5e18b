"""What a peer does for someone: proxy, client, relay, exit, mirror, authority."""
