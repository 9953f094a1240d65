"""What happens on each rank: an assignment becomes a Lightning Trainer, a module and a data module, and is fitted."""
