"""What goes over the wire, and when it is: known to clients, workers and the broker room alike."""
