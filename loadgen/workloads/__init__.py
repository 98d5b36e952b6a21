"""Who sends how much, and when: named suites (`catalogue`), trace files, prompts. Knows no other room."""
