"""The command `finetune`: from the weights of a model, on texts of one's own."""
