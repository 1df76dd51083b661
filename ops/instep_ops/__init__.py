"""What a person touches: commands, embedded parts, demo, verify. The only place that imports everything."""
