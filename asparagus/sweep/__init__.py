"""The search: which trials are run, when they are stopped, and what came of them."""
