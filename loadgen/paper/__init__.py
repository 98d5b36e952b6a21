"""The experiments of "Fairness in Serving Large Language Models" (OSDI'24), simulated: `evaluation` runs them all."""
