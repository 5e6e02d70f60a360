"""The tables of a grid's report, one file for each kind; beside them `table` (what a table is), `writers` (how it is
written), `values` (what stands in it) and `notes` (what is said below it).

The tables are those of one panel: cells of one data set and one student. Each takes the panel and the table's key.
"""
