"""The command `import`: a folder of Hugging Face becomes the folder of a model here."""
