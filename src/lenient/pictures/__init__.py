"""Picture files of anybody: which of them a folder holds, and what one shows; no labels, and no data set."""
