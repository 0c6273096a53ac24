"""External solvers behind small adapters: what several certifiers share of them. Each is imported when it is used."""
