SELECT id FROM defaults
