"""Models: networks of our own, and building any network from its dotted path and the sizes that the data give."""
