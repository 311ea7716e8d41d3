"""One file for each resource of the API: its models, its handlers, and its rows of the table."""
