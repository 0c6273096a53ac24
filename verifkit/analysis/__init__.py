"""Mathematics shared by verifiers: bound propagation, gradients, confidence. Arrays in, arrays out; no verifier is
known here, and no solver.

Every bound is rigorous in floating point: it holds for exact arithmetic on the stored weights whatever the rounding
errors and the order of summation (error terms gamma_n = n u / (1 - n u), Higham, Accuracy and Stability of Numerical
Algorithms, chapter 3).
"""
