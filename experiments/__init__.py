"""Tables of docs/results: each a list of short training runs, made and kept one by one."""
