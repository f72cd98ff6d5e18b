"""What a running process says of itself: it collects ``statistics()``, nobody pushes."""
