"""The parts of `instep verify`: what one position means for topic, ledger and CRM, and how each side is read."""
