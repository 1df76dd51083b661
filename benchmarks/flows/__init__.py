"""How fast flows are kept true: the engine alone, and the whole path from topic to flow topic."""
