"""argv -> one call -> exit status: one small function per command. The only room that prints."""
