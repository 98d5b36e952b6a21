"""Results for readers: a table on the terminal (`terminal`, `load_table`), or a `page` with pictures.

Pictures need matplotlib, which is an extra of the installation; `terminal`, `load_table` and what they import do not.
"""
