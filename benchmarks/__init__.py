"""Measurements of Instep beside its peers, on parts they start themselves."""
