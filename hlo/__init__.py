"""Tools that read compiled programs."""
