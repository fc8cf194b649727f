"""What oned asks for: one frozen type an action, read by `calling` from arguments and standard input."""
