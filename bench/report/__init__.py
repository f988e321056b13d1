"""Tables, comparisons and figures from results alone."""
