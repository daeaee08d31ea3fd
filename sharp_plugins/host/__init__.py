"""The only code that reaches into fairseq's insides: one room for each of fairseq's moments."""
