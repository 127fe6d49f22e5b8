"""The commands `compare` and `compare-finetune`: several runs, a table and a plot."""
