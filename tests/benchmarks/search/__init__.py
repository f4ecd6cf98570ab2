"""How soon a search finds a good model, ours beside others', on learning curves recorded once."""
