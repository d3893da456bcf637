"""`hbone demo`: the whole thing before the user's eyes, with every claim checked."""
